package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const root = "../.."

func load(t *testing.T, name string) map[string]any {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "protocol", "vectors", name))
	if err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var vectors map[string]any
	if err := decoder.Decode(&vectors); err != nil {
		t.Fatal(err)
	}
	return vectors
}

func unhex(t *testing.T, text any) []byte {
	t.Helper()
	data, err := hex.DecodeString(text.(string))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func number(t *testing.T, value any) int64 {
	t.Helper()
	n, err := value.(json.Number).Int64()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func schema(t *testing.T) Schema {
	t.Helper()
	read, err := readSchema(filepath.Join(root, "docs", "protocol.md"))
	if err != nil {
		t.Fatal(err)
	}
	return read
}

// same compares a decoded message with the vector's readable form, in which bytes are hexadecimal.
func same(read, written any) bool {
	switch v := read.(type) {
	case []byte:
		return hex.EncodeToString(v) == written
	case int64:
		n, ok := written.(json.Number)
		m, err := n.Int64()
		return ok && err == nil && m == v
	case Fields:
		other, ok := written.(map[string]any)
		if !ok {
			return false
		}
		for name, value := range v {
			if !same(value, other[name]) {
				return false
			}
		}
		return true
	case []any:
		other, ok := written.([]any)
		if !ok || len(other) != len(v) {
			return false
		}
		for i := range v {
			if !same(v[i], other[i]) {
				return false
			}
		}
		return true
	default:
		return reflect.DeepEqual(read, written)
	}
}

func TestEveryMessageReadsAsItsVectorSaysAndIsWrittenAsItWas(t *testing.T) {
	known := schema(t)
	vectors := load(t, "messages.json")["messages"].([]any)
	if len(vectors) != len(known) {
		t.Errorf("%d vectors, %d messages in the document", len(vectors), len(known))
	}
	for _, each := range vectors {
		vector := each.(map[string]any)
		name, encoded := vector["name"].(string), unhex(t, vector["encoded"])
		_, fields, err := known.Decode(encoded, name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !same(fields, vector["fields"]) {
			t.Errorf("%s: read as %v", name, fields)
		}
		again, err := known.Encode(name, fields)
		if err != nil || !bytes.Equal(again, encoded) {
			t.Errorf("%s: written as %x (%v), not %x", name, again, err, encoded)
		}
	}
}

func TestEveryMessageWithAnythingElseInAFieldIsRefused(t *testing.T) {
	known := schema(t)
	for _, each := range load(t, "messages.json")["messages"].([]any) {
		vector := each.(map[string]any)
		name, encoded := vector["name"].(string), unhex(t, vector["encoded"])
		value, err := readValue(encoded)
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range vector["refused"].([]any) {
			refusal := one.(map[string]any)
			bad := appendLength(nil, len(value.(Map)), 0x80, 16, 0, 0xde, 0xdf)
			for _, pair := range value.(Map) {
				bad, _ = appendValue(bad, pair.Name)
				if pair.Name == refusal["field"] {
					bad = append(bad, unhex(t, refusal["value"])...)
				} else {
					bad, _ = appendValue(bad, pair.Value)
				}
			}
			if _, _, err := known.Decode(bad, name); err == nil {
				t.Errorf("%s with %v in %v is taken", name, refusal["why"], refusal["field"])
			}
		}
		for _, bad := range [][]byte{append(bytes.Clone(encoded), 0), encoded[:len(encoded)-1]} {
			if _, _, err := known.Decode(bad, name); err == nil {
				t.Errorf("%s with a byte more or less is taken", name)
			}
		}
		extra, _ := appendValue(nil, append(value.(Map), Pair{"more", int64(1)}))
		if _, _, err := known.Decode(extra, name); err == nil {
			t.Errorf("%s with an unknown field is taken", name)
		}
	}
}

func TestSignedMessagesAreOverDomainKeyAndBody(t *testing.T) {
	known := schema(t)
	for _, each := range load(t, "messages.json")["signed"].([]any) {
		vector := each.(map[string]any)
		name, domain := vector["name"].(string), vector["domain"].(string)
		key, body := unhex(t, vector["key"]), unhex(t, vector["body"])
		if !bytes.Equal(statement(domain, key, body), unhex(t, vector["statement"])) {
			t.Errorf("%s: another statement", name)
		}
		signed := Fields{"key": key, "body": body, "signature": unhex(t, vector["signature"])}
		if _, err := known.open(domain, name, signed); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := known.open("RCXXXX01", name, signed); err == nil {
			t.Errorf("%s is taken under another domain", name)
		}
	}
}

func TestStrictVerification(t *testing.T) {
	vectors := load(t, "signatures.json")
	message := unhex(t, vectors["message"])
	for what, wanted := range map[string]bool{"accepted": true, "refused": false} {
		for _, each := range vectors[what].([]any) {
			vector := each.(map[string]any)
			if verify(unhex(t, vector["key"]), message, unhex(t, vector["signature"])) != wanted {
				t.Errorf("%v must be %s", vector["name"], what)
			}
		}
	}
}

func TestVouchersAndLeases(t *testing.T) {
	vectors := load(t, "settlement.json")
	part := func(name string) map[string]any { return vectors[name].(map[string]any) }
	closed, roots, voucher := part("closed"), part("alloc_root"), part("voucher")
	chained := closedDigest(unhex(t, closed["previous"]), unhex(t, closed["agreement"]),
		number(t, closed["amount"]), unhex(t, closed["receipt"]))
	if !bytes.Equal(chained, unhex(t, closed["closed"])) {
		t.Error("another chain of closed agreements")
	}
	var open []allocation
	for _, each := range roots["open"].([]any) {
		one := each.(map[string]any)
		open = append(open, allocation{unhex(t, one["agreement"]), number(t, one["paid"])})
	}
	root := allocationRoot(number(t, roots["sequence"]), unhex(t, roots["closed"]), open)
	if !bytes.Equal(root, unhex(t, roots["root"])) {
		t.Error("another allocation root")
	}
	said := voucherStatement(unhex(t, voucher["channel"]), number(t, voucher["cumulative"]), root)
	key := ed25519.NewKeyFromSeed(unhex(t, voucher["seed"]))
	if !bytes.Equal(said, unhex(t, voucher["signing_bytes"])) || !bytes.Equal(ed25519.Sign(key, said), unhex(t, voucher["signature"])) {
		t.Error("another voucher")
	}
	for _, name := range []string{"lease", "conflicting_lease"} {
		vector := part(name)
		tick := Fields{"stake": unhex(t, vector["stake"]), "agreement": unhex(t, vector["agreement"]),
			"payer": unhex(t, vector["payer"]), "slots": number(t, vector["slots"]),
			"start_s": number(t, vector["start"]), "end_s": number(t, vector["end"])}
		if !bytes.Equal(leaseStatement(tick), unhex(t, vector["signing_bytes"])) {
			t.Errorf("%s: another statement", name)
		}
		if !verify(unhex(t, vector["key"]), leaseStatement(tick), unhex(t, vector["signature"])) {
			t.Errorf("%s: not its provider's signature", name)
		}
	}
}

func TestOneAgreementFromItsTermsToItsReceipt(t *testing.T) {
	known, vectors := schema(t), load(t, "agreement.json")
	payer := ed25519.NewKeyFromSeed(unhex(t, vectors["payer_seed"]))
	encoded := unhex(t, vectors["terms"])
	_, terms, err := known.Decode(encoded, "Terms")
	if err != nil {
		t.Fatal(err)
	}
	agreement := agreementID(terms, encoded)
	if !bytes.Equal(agreement, unhex(t, vectors["agreement"])) || !bytes.Equal(digest(encoded), unhex(t, vectors["terms_digest"])) {
		t.Error("another agreement")
	}
	if !bytes.Equal(signMessage("RCTERM01", payer, encoded)["signature"].([]byte), unhex(t, vectors["terms_signature"])) {
		t.Error("other signed terms")
	}
	first := charge(terms["price_per_hour"].(int64), terms["first_tick_ms"].(int64))
	if first != number(t, vectors["first_amount"]) {
		t.Errorf("the first tick costs %d", first)
	}
	voucher := signVoucher(payer, terms["channel"].([]byte), first, 1, make([]byte, 32), []allocation{{agreement, first}})
	if written, err := known.Encode("SignedVoucher", voucher); err != nil || !bytes.Equal(written, unhex(t, vectors["voucher"])) {
		t.Errorf("another first voucher: %x (%v)", written, err)
	}
	chain := make([]byte, 32)
	for i, each := range vectors["output"].([]any) {
		_, record, err := known.Decode(unhex(t, each), "Output")
		if err != nil {
			t.Fatal(err)
		}
		chain = digest(chain, []byte(record["stream"].(string)), []byte(record["kind"].(string)),
			little(record["sequence"].(int64)), record["data"].([]byte))
		if !bytes.Equal(chain, unhex(t, vectors["output_chain"].([]any)[i+1])) {
			t.Errorf("another output chain after record %d", i)
		}
	}
	provider := publicOf(ed25519.NewKeyFromSeed(unhex(t, vectors["provider_seed"])))
	signed := Fields{"key": provider, "body": unhex(t, vectors["receipt"]), "signature": unhex(t, vectors["receipt_signature"])}
	receipt, err := known.open("RCRCPT01", "Receipt", signed)
	if err != nil {
		t.Fatal(err)
	}
	if owed, err := amountOwed(terms, receipt); err != nil || owed != number(t, vectors["amount"]) || owed != receipt["amount"] {
		t.Errorf("the receipt comes to %d (%v)", owed, err)
	}
	if !bytes.Equal(receiptDigest(signed), unhex(t, vectors["receipt_digest"])) {
		t.Error("another digest of the receipt")
	}
	never := Fields{"key": provider, "body": unhex(t, vectors["never_leased"]), "signature": unhex(t, vectors["never_leased_signature"])}
	if said, err := known.open("RCNEVR01", "NeverLeasedBody", never); err != nil || !bytes.Equal(said["agreement"].([]byte), agreement) {
		t.Errorf("never leased: %v %v", said, err)
	}
}

func TestTheDocumentNamesWhatThisProgramUses(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs", "protocol.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"RCAGRE01", "RCVCHR01", "RCALLC01", "RCALLO01", "RCLEAS01", agreementProtocol, blobProtocol, bookProtocol, payProtocol, offersTopic} {
		if !strings.Contains(string(text), word) {
			t.Errorf("the document does not name %s", word)
		}
	}
}

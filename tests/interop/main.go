// A stranger's client: it joins the network, finds an offer, rents a slot and pays for it, knowing
// nothing of the nodes it meets but docs/protocol.md.
//
// It prints one line of JSON for each step. The payment channel is opened by whoever runs it: when it
// has a quote it says so, and reads the channel's address as a line of hexadecimal.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"
)

type client struct {
	*node
	payer []byte
	mint  []byte
}

func main() {
	document := flag.String("document", "docs/protocol.md", "the specification")
	peer := flag.String("peer", "", "where a node of the network listens, with its /p2p/ part")
	seed := flag.String("seed", "", "this node's key, 32 bytes of hexadecimal")
	payer := flag.String("payer", "", "the wallet that pays, hexadecimal")
	mint := flag.String("mint", "", "the mint to pay in, hexadecimal")
	patience := flag.Duration("patience", time.Minute, "how long all of it may take")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), *patience)
	defer cancel()
	if err := run(ctx, *document, *peer, *seed, *payer, *mint); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func tell(step string, what map[string]any) {
	what["step"] = step
	for name, value := range what {
		if data, ok := value.([]byte); ok {
			what[name] = hex.EncodeToString(data)
		}
	}
	line, err := json.Marshal(what)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}

func run(ctx context.Context, document, peer, seed, payer, mint string) error {
	schema, err := readSchema(document)
	if err != nil {
		return err
	}
	var words [3][]byte
	for i, text := range []string{seed, payer, mint} {
		if words[i], err = hex.DecodeString(text); err != nil || len(words[i]) != 32 {
			return fmt.Errorf("%q is not 32 bytes of hexadecimal", text)
		}
	}
	here, err := join(ctx, schema, ed25519.NewKeyFromSeed(words[0]), peer)
	if err != nil {
		return err
	}
	defer here.host.Close()
	me := client{here, words[1], words[2]}
	tell("joined", map[string]any{"key": me.public})
	offer, err := me.findOffer(ctx)
	if err != nil {
		return err
	}
	tell("offer", map[string]any{"provider": offer["provider"], "price_per_hour": offer["price_per_hour"]})
	if err := me.rent(ctx, offer); err != nil {
		return err
	}
	provider, err := me.reach(offer)
	if err != nil {
		return err
	}
	if err := me.isMeshed(ctx, provider); err != nil {
		return err
	}
	tell("following", map[string]any{"provider": offer["provider"]})
	if err := me.hearWithdrawal(ctx, offer); err != nil {
		return err
	}
	tell("withdrawn", map[string]any{"provider": offer["provider"]})
	return nil
}

func (c *client) rent(ctx context.Context, offer Fields) error {
	provider, err := c.reach(offer)
	if err != nil {
		return err
	}
	wanted := Fields{"resource_class": offer["resource_class"], "memory_mib": int64(64), "disk_mib": int64(64)}
	talk, err := c.talk(ctx, provider, agreementProtocol)
	if err != nil {
		return err
	}
	defer talk.close()
	request := Fields{"requirements": wanted, "payer": c.payer, "mint": c.mint, "wall_ms": int64(600_000)}
	if err := talk.say("QuoteRequest", request); err != nil {
		return err
	}
	quote, err := talk.expect("Quote")
	if err != nil {
		return err
	}
	tell("quote", map[string]any{"price_per_hour": quote["price_per_hour"], "slots": quote["slots"],
		"payee": quote["payee"], "min_challenge_s": quote["min_challenge_s"]})
	manifest, err := c.schema.Encode("Manifest", Fields{"files": []any{}})
	if err != nil {
		return err
	}
	if err := c.upload(ctx, provider, manifest); err != nil {
		return err
	}
	tell("uploaded", map[string]any{"chunk": digest(manifest)})
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil {
		return fmt.Errorf("no channel was given: %w", err)
	}
	channel, err := hex.DecodeString(strings.TrimSpace(line))
	if err != nil || len(channel) != 32 {
		return fmt.Errorf("%q is no channel", line)
	}
	program := "import time\nprint('hello, stranger', flush=True)\ntime.sleep(600)\n"
	task, err := c.schema.Encode("TaskSpec", Fields{"app_name": "interop", "argv": []any{"python", "-c", program},
		"requirements": wanted, "upload": digest(manifest), "wall_ms": int64(600_000)})
	if err != nil {
		return err
	}
	// The quote held its slots for a few seconds only, and those may be over.
	if err := talk.say("QuoteRequest", request); err != nil {
		return err
	}
	if quote, err = talk.expect("Quote"); err != nil {
		return err
	}
	nonce := make([]byte, 16)
	rand.Read(nonce)
	terms := Fields{"task": digest(task), "payer": c.payer, "payer_node": c.public, "payee": quote["payee"],
		"payee_node": offer["provider"], "stake": quote["stake"], "mint": c.mint, "channel": channel,
		"nonce": nonce, "slots": quote["slots"], "price_per_hour": quote["price_per_hour"],
		"horizon_ms": int64(30_000), "first_tick_ms": int64(10_000), "start_deadline_ms": int64(60_000)}
	encoded, err := c.schema.Encode("Terms", terms)
	if err != nil {
		return err
	}
	lease := &lease{client: c, terms: terms, encoded: encoded, name: agreementID(terms, encoded)}
	order := Fields{"terms": signMessage("RCTERM01", c.key, encoded), "task": task, "voucher": lease.promise(10_000)}
	if err := talk.say("Order", order); err != nil {
		return err
	}
	name, answer, err := talk.patiently("Leased", "NeverLeased", "Ended")
	if err != nil {
		return err
	}
	if name != "Leased" {
		return fmt.Errorf("the order was answered by %s", name)
	}
	if err := lease.take(answer, 10_000); err != nil {
		return err
	}
	tell("leased", map[string]any{"agreement": lease.name, "prepaid_ms": answer["prepaid_ms"]})
	return lease.use(ctx, provider, talk)
}

// lease is an agreement that was ordered.
type lease struct {
	*client
	terms    Fields
	encoded  []byte
	name     []byte
	sequence int64
}

// promise signs the next voucher: the total that pays for so much time in all.
func (l *lease) promise(prepaidMs int64) Fields {
	l.sequence++
	total := charge(l.terms["price_per_hour"].(int64), prepaidMs)
	return signVoucher(l.key, l.terms["channel"].([]byte), total, l.sequence, make([]byte, 32), []allocation{{l.name, total}})
}

// take checks a tick against the terms: section 7.
func (l *lease) take(leased Fields, promised int64) error {
	tick := leased["tick"].(Fields)
	same := bytes.Equal(tick["agreement"].([]byte), l.name)
	for _, part := range []string{"stake", "payer"} {
		same = same && bytes.Equal(tick[part].([]byte), l.terms[part].([]byte))
	}
	if !same || tick["slots"] != l.terms["slots"] || tick["end_s"].(int64) <= tick["start_s"].(int64) {
		return fmt.Errorf("a tick for something else than agreed: %v", tick)
	}
	if !verify(l.terms["payee_node"].([]byte), leaseStatement(tick), tick["signature"].([]byte)) {
		return errors.New("a tick that its provider did not sign")
	}
	if leased["prepaid_ms"].(int64) > promised {
		return fmt.Errorf("a tick for %v ms, of which %d were promised", leased["prepaid_ms"], promised)
	}
	return nil
}

// use follows the job, pays for more of it, ends it, and takes the receipt.
func (l *lease) use(ctx context.Context, provider providerID, talk *conversation) error {
	feed, err := l.talk(ctx, provider, jobProtocol)
	if err != nil {
		return err
	}
	defer feed.close()
	if err := feed.say("Attach", Fields{"agreement": l.name, "next_sequence": int64(0)}); err != nil {
		return err
	}
	output := newOutput()
	for !strings.Contains(output.stdout, "hello, stranger") {
		if _, err := output.read(feed); err != nil {
			return err
		}
	}
	tell("output", map[string]any{"stdout": output.stdout})
	if err := l.extend(ctx, provider, 25_000); err != nil {
		return err
	}
	if err := talk.say("CancelRequest", Fields{"agreement": l.name, "reason": "seen enough"}); err != nil {
		return err
	}
	name, ended, err := talk.patiently("NeverLeased", "Ended")
	if err != nil {
		return err
	}
	if name != "Ended" {
		return fmt.Errorf("the cancel was answered by %s", name)
	}
	receipt, err := l.checkReceipt(ended["receipt"].(Fields), 25_000)
	if err != nil {
		return err
	}
	var finished Fields
	for finished == nil {
		if finished, err = output.read(feed); err != nil {
			return err
		}
	}
	if !bytes.Equal(output.chain, receipt["output"].([]byte)) || output.next != receipt["output_records"] {
		return fmt.Errorf("other output than the receipt's: %d records", output.next)
	}
	if err := feed.say("Kept", Fields{"agreement": l.name}); err != nil {
		return err
	}
	tell("ended", map[string]any{"cause": receipt["cause"], "amount": receipt["amount"],
		"metered_ms": receipt["metered_ms"], "agreement": l.name})
	return nil
}

func (l *lease) extend(ctx context.Context, provider providerID, total int64) error {
	pay, err := l.talk(ctx, provider, payProtocol)
	if err != nil {
		return err
	}
	defer pay.close()
	if err := pay.say("Extend", Fields{"agreement": l.name, "prepaid_ms": total, "voucher": l.promise(total)}); err != nil {
		return err
	}
	leased, err := pay.expect("Leased")
	if err != nil {
		return err
	}
	if leased["prepaid_ms"] != total {
		return fmt.Errorf("%d ms were paid for, the tick says %v", total, leased["prepaid_ms"])
	}
	tell("extended", map[string]any{"prepaid_ms": total})
	return l.take(leased, total)
}

// checkReceipt is section 9's rule: what a client accepts.
func (l *lease) checkReceipt(signed Fields, promisedMs int64) (Fields, error) {
	if !bytes.Equal(signed["key"].([]byte), l.terms["payee_node"].([]byte)) {
		return nil, errors.New("a receipt signed by somebody else")
	}
	receipt, err := l.schema.open("RCRCPT01", "Receipt", signed)
	if err != nil {
		return nil, err
	}
	for part, wanted := range map[string][]byte{"agreement": l.name, "terms": digest(l.encoded),
		"task": l.terms["task"].([]byte), "channel": l.terms["channel"].([]byte)} {
		if !bytes.Equal(receipt[part].([]byte), wanted) {
			return nil, fmt.Errorf("a receipt of another %s", part)
		}
	}
	if receipt["prepaid"].(int64) > charge(l.terms["price_per_hour"].(int64), promisedMs) {
		return nil, errors.New("a receipt for more than was promised")
	}
	owed, err := amountOwed(l.terms, receipt)
	if err == nil && owed != receipt["amount"] {
		err = fmt.Errorf("a receipt over %v where %d is owed", receipt["amount"], owed)
	}
	return receipt, err
}

// providerAnswers are the causes for which the client pays nothing.
var providerAnswers = map[string]bool{"sandbox_failed": true, "gpu_fault": true, "provider_lost": true,
	"provider_stopped": true, "not_started": true, "unknown": true}

// amountOwed is what an agreement comes to: section 9.
func amountOwed(terms, receipt Fields) (int64, error) {
	if receipt["frozen_ms"].(int64) > receipt["metered_ms"].(int64) {
		return 0, errors.New("more frozen than metered")
	}
	if providerAnswers[receipt["cause"].(string)] {
		return 0, nil
	}
	due := charge(terms["price_per_hour"].(int64), max(1_000, receipt["metered_ms"].(int64)))
	return min(due, receipt["prepaid"].(int64)), nil
}

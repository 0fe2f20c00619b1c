// Statements and signatures: sections 1, 3, 6 and 7 of docs/protocol.md.
package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math/big"
	"math/bits"
	"slices"
)

func little(n int64) []byte { return binary.LittleEndian.AppendUint64(nil, uint64(n)) }

func digest(parts ...[]byte) []byte {
	sum := sha256.Sum256(slices.Concat(parts...))
	return sum[:]
}

// charge is what time costs, in micro-units: rounded up once, on the total.
func charge(pricePerHour, ms int64) int64 {
	high, low := bits.Mul64(uint64(pricePerHour), uint64(ms))
	low, carry := bits.Add64(low, 3_600_000-1, 0)
	quotient, _ := bits.Div64(high+carry, low, 3_600_000)
	return int64(quotient)
}

var (
	fieldPrime = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	groupOrder = func() *big.Int {
		tail, _ := new(big.Int).SetString("27742317777372353535851937790883648493", 10)
		return tail.Add(tail, new(big.Int).Lsh(big.NewInt(1), 252))
	}()
	smallOrder = func() []*big.Int {
		eight, _ := new(big.Int).SetString("05fc536d880238b13933c6d305acdfd5f098eff289f4c345b027b2c28f95e826", 16)
		last := new(big.Int).Sub(fieldPrime, big.NewInt(1))
		return []*big.Int{big.NewInt(0), big.NewInt(1), last, eight, new(big.Int).Sub(fieldPrime, eight)}
	}()
)

func littleNumber(data []byte) *big.Int {
	turned := slices.Clone(data)
	slices.Reverse(turned)
	return new(big.Int).SetBytes(turned)
}

func isStrictPoint(encoded []byte) bool {
	y := littleNumber(encoded)
	y.SetBit(y, 255, 0)
	if y.Cmp(fieldPrime) >= 0 {
		return false
	}
	return !slices.ContainsFunc(smallOrder, func(bad *big.Int) bool { return bad.Cmp(y) == 0 })
}

// verify is section 3's strict verification.
func verify(key, message, signature []byte) bool {
	if len(key) != ed25519.PublicKeySize || len(signature) != ed25519.SignatureSize {
		return false
	}
	if littleNumber(signature[32:]).Cmp(groupOrder) >= 0 {
		return false
	}
	return isStrictPoint(key) && isStrictPoint(signature[:32]) && ed25519.Verify(key, message, signature)
}

func statement(domain string, key, body []byte) []byte {
	return slices.Concat([]byte(domain), key, body)
}

func publicOf(key ed25519.PrivateKey) []byte { return []byte(key.Public().(ed25519.PublicKey)) }

func signMessage(domain string, key ed25519.PrivateKey, body []byte) Fields {
	public := publicOf(key)
	return Fields{"key": public, "body": body, "signature": ed25519.Sign(key, statement(domain, public, body))}
}

// open returns the message inside a Signed, once its signature is known to be its key's.
func (s Schema) open(domain, name string, signed Fields) (Fields, error) {
	key, body := signed["key"].([]byte), signed["body"].([]byte)
	said := statement(domain, key, body)
	if len(said) < 80 || !verify(key, said, signed["signature"].([]byte)) {
		return nil, errors.New("the signature of a " + name + " is not valid")
	}
	_, fields, err := s.Decode(body, name)
	return fields, err
}

func agreementID(terms Fields, encoded []byte) []byte {
	return digest([]byte("RCAGRE01"), terms["channel"].([]byte), terms["payer"].([]byte),
		terms["payee"].([]byte), terms["nonce"].([]byte), encoded)
}

func closedDigest(previous, agreement []byte, amount int64, receipt []byte) []byte {
	return digest([]byte("RCALLC01"), previous, agreement, little(amount), receipt)
}

// allocation is one open agreement and what was promised for it.
type allocation struct {
	agreement []byte
	paid      int64
}

func allocationRoot(sequence int64, closed []byte, open []allocation) []byte {
	parts := [][]byte{[]byte("RCALLO01"), little(sequence), closed,
		binary.LittleEndian.AppendUint16(nil, uint16(len(open)))}
	for _, each := range open {
		parts = append(parts, each.agreement, little(each.paid))
	}
	return digest(parts...)
}

func voucherStatement(channel []byte, cumulative int64, root []byte) []byte {
	return slices.Concat([]byte("RCVCHR01"), channel, little(cumulative), root)
}

// signVoucher promises a channel's payee a total, and says what it is for.
func signVoucher(key ed25519.PrivateKey, channel []byte, cumulative, sequence int64, closed []byte, open []allocation) Fields {
	items := make([]any, len(open))
	for i, each := range open {
		items[i] = []any{each.agreement, each.paid}
	}
	said := voucherStatement(channel, cumulative, allocationRoot(sequence, closed, open))
	return Fields{"channel": channel, "cumulative": cumulative, "sequence": sequence, "closed": closed,
		"open": items, "closes": []any{}, "signature": ed25519.Sign(key, said)}
}

func leaseStatement(tick Fields) []byte {
	return slices.Concat([]byte("RCLEAS01"), tick["stake"].([]byte), tick["agreement"].([]byte),
		tick["payer"].([]byte), little(tick["slots"].(int64)), little(tick["start_s"].(int64)),
		little(tick["end_s"].(int64)))
}

func receiptDigest(signed Fields) []byte {
	return digest(signed["body"].([]byte), signed["signature"].([]byte))
}

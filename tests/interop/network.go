// The network: TCP, noise, yamux, gossipsub, and frames on streams (sections 2 and 5).
package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/sec"
	basichost "github.com/libp2p/go-libp2p/p2p/host/basic"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/host/peerstore/pstoremem"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/net/upgrader"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	ma "github.com/multiformats/go-multiaddr"
)

const (
	agreementProtocol = "/robocompute/agreement/1"
	blobProtocol      = "/robocompute/blob/1"
	bookProtocol      = "/robocompute/book/1"
	jobProtocol       = "/robocompute/job/1"
	payProtocol       = "/robocompute/pay/1"
	offersTopic       = "/robocompute/1/offers/"
	resourceClass     = "cpu"
	maxFrame          = 262_144
	maxGossip         = 16_384
	maxPart           = 131_072
	answerWithin      = 60 * time.Second
)

type providerID = peer.ID

// protocolMessages are the messages that may come on a stream of each protocol.
var protocolMessages = map[string][]string{
	agreementProtocol: {"Quote", "Waiting", "Leased", "NeverLeased", "Ended", "Refused"},
	payProtocol:       {"Leased", "Ended", "Refused", "Sync"},
	blobProtocol:      {"Want", "Stored", "Missing", "Refused"},
	bookProtocol:      {"BookPage", "Refused"},
	jobProtocol:       {"Stage", "Output", "Usage", "Appended", "Finished", "Refused"},
}

// node is this program as others on the network see it.
type node struct {
	schema Schema
	host   host.Host
	key    ed25519.PrivateKey
	public []byte
	met    peer.ID
	heard  *pubsub.Subscription
	topic  *pubsub.Topic
}

// newHost listens on TCP with noise and yamux, and knows nothing else: importing less of libp2p makes
// this program build in half the time.
func newHost(key ed25519.PrivateKey) (host.Host, error) {
	identity, err := crypto.UnmarshalEd25519PrivateKey(key)
	if err != nil {
		return nil, err
	}
	id, err := peer.IDFromPrivateKey(identity)
	if err != nil {
		return nil, err
	}
	peers, err := pstoremem.NewPeerstore()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(peers.AddPubKey(id, identity.GetPublic()), peers.AddPrivKey(id, identity)); err != nil {
		return nil, err
	}
	events := eventbus.NewBus()
	connections, err := swarm.NewSwarm(id, peers, events)
	if err != nil {
		return nil, err
	}
	muxers := []upgrader.StreamMuxer{{ID: yamux.ID, Muxer: yamux.DefaultTransport}}
	secured, err := noise.New(noise.ID, identity, muxers)
	if err != nil {
		return nil, err
	}
	upgrade, err := upgrader.New([]sec.SecureTransport{secured}, muxers, nil, nil, nil)
	if err != nil {
		return nil, err
	}
	transport, err := tcp.NewTCPTransport(upgrade, nil, nil)
	if err != nil {
		return nil, err
	}
	if err := connections.AddTransport(transport); err != nil {
		return nil, err
	}
	if err := connections.Listen(ma.StringCast("/ip4/127.0.0.1/tcp/0")); err != nil {
		return nil, err
	}
	here, err := basichost.NewHost(connections, &basichost.HostOpts{EventBus: events})
	if err == nil {
		here.Start()
	}
	return here, err
}

func join(ctx context.Context, schema Schema, key ed25519.PrivateKey, where string) (*node, error) {
	here, err := newHost(key)
	if err != nil {
		return nil, err
	}
	address, err := ma.NewMultiaddr(where)
	if err != nil {
		return nil, err
	}
	info, err := peer.AddrInfoFromP2pAddr(address)
	if err != nil {
		return nil, err
	}
	one := &node{schema: schema, host: here, key: key, public: publicOf(key), met: info.ID}
	gossip, err := pubsub.NewGossipSub(ctx, here)
	if err != nil {
		return nil, err
	}
	topic := offersTopic + resourceClass
	if err := gossip.RegisterTopicValidator(topic, func(_ context.Context, _ peer.ID, m *pubsub.Message) bool {
		_, err := one.openOffer(m.Data)
		return err == nil
	}); err != nil {
		return nil, err
	}
	joined, err := gossip.Join(topic)
	if err != nil {
		return nil, err
	}
	one.topic = joined
	if one.heard, err = joined.Subscribe(); err != nil {
		return nil, err
	}
	return one, here.Connect(ctx, *info)
}

// openOffer verifies a gossiped offer: size, signature, and that its provider signed it.
func (n *node) openOffer(payload []byte) (Fields, error) {
	if len(payload) > maxGossip {
		return nil, errors.New("gossip over the limit")
	}
	_, signed, err := n.schema.Decode(payload, "Signed")
	if err != nil {
		return nil, err
	}
	return n.openSignedOffer(signed)
}

func (n *node) openSignedOffer(signed Fields) (Fields, error) {
	offer, err := n.schema.open("RCOFFR01", "Offer", signed)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(offer["provider"].([]byte), signed["key"].([]byte)) {
		return nil, errors.New("an offer of somebody else than its signer")
	}
	if offer["sequence"].(int64) > time.Now().UnixMilli()+30_000 {
		return nil, errors.New("an offer of the future")
	}
	return offer, nil
}

// findOffer asks the node that was met first for its live offers until it knows one.
func (n *node) findOffer(ctx context.Context) (Fields, error) {
	for {
		offers, err := n.askBook(ctx)
		if err != nil || len(offers) > 0 {
			return first(offers), err
		}
		select {
		case <-ctx.Done():
			return nil, errors.New("nobody knew of an offer")
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func first(offers []Fields) Fields {
	if len(offers) == 0 {
		return nil
	}
	return offers[0]
}

func (n *node) askBook(ctx context.Context) ([]Fields, error) {
	talk, err := n.talk(ctx, n.met, bookProtocol)
	if err != nil {
		return nil, err
	}
	defer talk.close()
	if err := talk.say("BookRequest", Fields{"classes": []any{resourceClass}}); err != nil {
		return nil, err
	}
	var offers []Fields
	for {
		page, err := talk.expect("BookPage")
		if err != nil {
			return nil, err
		}
		for _, signed := range page["offers"].([]any) {
			offer, err := n.openSignedOffer(signed.(Fields))
			if err != nil {
				return nil, err
			}
			if offer["ttl_ms"].(int64) > 0 {
				offers = append(offers, offer)
			}
		}
		if page["last"].(bool) {
			return offers, nil
		}
	}
}

// isMeshed waits until a peer said that it follows the topic too, and then two heartbeats, in which
// both sides graft each other: what it publishes from then on comes by gossip.
func (n *node) isMeshed(ctx context.Context, with peer.ID) error {
	for !slices.Contains(n.topic.ListPeers(), with) {
		select {
		case <-ctx.Done():
			return errors.New("the provider follows no topic of offers")
		case <-time.After(100 * time.Millisecond):
		}
	}
	time.Sleep(2 * time.Second)
	return nil
}

// hearWithdrawal waits until an offer is taken back by gossip: a newer one that lives for no time.
func (n *node) hearWithdrawal(ctx context.Context, offer Fields) error {
	for {
		said, err := n.heard.Next(ctx)
		if err != nil {
			return fmt.Errorf("no withdrawal was heard: %w", err)
		}
		next, err := n.openOffer(said.Data)
		if err != nil || !bytes.Equal(next["provider"].([]byte), offer["provider"].([]byte)) {
			continue
		}
		if next["ttl_ms"] == int64(0) && next["sequence"].(int64) > offer["sequence"].(int64) {
			return nil
		}
	}
}

// reach remembers where an offer's provider can be dialled, and returns its peer id.
func (n *node) reach(offer Fields) (providerID, error) {
	key, err := crypto.UnmarshalEd25519PublicKey(offer["provider"].([]byte))
	if err != nil {
		return "", err
	}
	id, err := peer.IDFromPublicKey(key)
	if err != nil {
		return "", err
	}
	for _, text := range offer["addresses"].([]any) {
		address, err := ma.NewMultiaddr(text.(string))
		if err != nil {
			continue
		}
		if transport, _ := peer.SplitAddr(address); transport != nil {
			n.host.Peerstore().AddAddr(id, transport, peerstore.PermanentAddrTTL)
		}
	}
	return id, nil
}

// conversation is one stream of frames.
type conversation struct {
	schema   Schema
	stream   network.Stream
	protocol string
}

func (n *node) talk(ctx context.Context, with peer.ID, name string) (*conversation, error) {
	stream, err := n.host.NewStream(ctx, with, protocol.ID(name))
	if err != nil {
		return nil, err
	}
	return &conversation{n.schema, stream, name}, nil
}

func (c *conversation) close() { c.stream.Close() }

func (c *conversation) say(name string, fields Fields) error {
	body, err := c.schema.Encode(name, fields)
	if err != nil {
		return err
	}
	if len(body) > maxFrame {
		return fmt.Errorf("a %s of %d bytes", name, len(body))
	}
	_, err = c.stream.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
	return err
}

func (c *conversation) hear() (string, Fields, error) {
	c.stream.SetReadDeadline(time.Now().Add(answerWithin))
	var header [4]byte
	if _, err := io.ReadFull(c.stream, header[:]); err != nil {
		return "", nil, fmt.Errorf("%s: %w", c.protocol, err)
	}
	size := binary.BigEndian.Uint32(header[:])
	if size > maxFrame {
		return "", nil, fmt.Errorf("a frame of %d bytes", size)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(c.stream, body); err != nil {
		return "", nil, err
	}
	return c.schema.Decode(body, protocolMessages[c.protocol]...)
}

// expect hears one message, which must be of that name.
func (c *conversation) expect(wanted string) (Fields, error) {
	name, fields, err := c.hear()
	if err == nil && name != wanted {
		err = fmt.Errorf("%s where %s was due: %v", name, wanted, fields)
	}
	return fields, err
}

// patiently hears what the other side waits for until one of the answers comes.
func (c *conversation) patiently(wanted ...string) (string, Fields, error) {
	for {
		name, fields, err := c.hear()
		if err != nil {
			return "", nil, err
		}
		for _, each := range wanted {
			if name == each {
				return name, fields, nil
			}
		}
		if name != "Waiting" {
			return "", nil, fmt.Errorf("%s where one of %v was due: %v", name, wanted, fields)
		}
	}
}

// upload brings one chunk to a provider that quoted.
func (n *node) upload(ctx context.Context, with peer.ID, chunk []byte) error {
	talk, err := n.talk(ctx, with, blobProtocol)
	if err != nil {
		return err
	}
	defer talk.close()
	if err := talk.say("Have", Fields{"chunks": []any{digest(chunk)}}); err != nil {
		return err
	}
	want, err := talk.expect("Want")
	if err != nil {
		return err
	}
	for range want["chunks"].([]any) {
		for at := 0; ; at += maxPart {
			end := min(at+maxPart, len(chunk))
			part := Fields{"chunk": digest(chunk), "offset": int64(at), "data": chunk[at:end], "last": end == len(chunk)}
			if err := talk.say("ChunkPart", part); err != nil {
				return err
			}
			if end == len(chunk) {
				break
			}
		}
	}
	_, err = talk.expect("Stored")
	return err
}

// output is what a job said so far, and the chain over it.
type output struct {
	stdout string
	next   int64
	chain  []byte
}

func newOutput() *output { return &output{chain: make([]byte, 32)} }

// read takes in one message of a job's feed; it returns the last one, Finished.
func (o *output) read(feed *conversation) (Fields, error) {
	name, said, err := feed.hear()
	if err != nil {
		return nil, err
	}
	switch name {
	case "Finished":
		return said, nil
	case "Refused":
		return nil, fmt.Errorf("no feed: %v", said)
	case "Output":
		if said["sequence"] != o.next {
			return nil, fmt.Errorf("record %v where %d was due", said["sequence"], o.next)
		}
		o.next++
		o.chain = digest(o.chain, []byte(said["stream"].(string)), []byte(said["kind"].(string)),
			little(said["sequence"].(int64)), said["data"].([]byte))
		if said["stream"] == "stdout" {
			o.stdout += string(said["data"].([]byte))
		}
	}
	return nil, nil
}

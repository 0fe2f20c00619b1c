package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/host"
)

const topicName = "bench"

// Queues as long as Python's, so that a burst shows the gossip and not a default.
const queueLength = 2048

// heard is what all nodes of this process received since the last report.
type heard struct {
	mu      sync.Mutex
	round   uint32
	waits   []float64
	unique  map[[3]uint32]bool
	doubles int
}

func (h *heard) note(node uint32, data []byte) {
	now := time.Now().UnixNano()
	round, source := binary.BigEndian.Uint32(data), binary.BigEndian.Uint32(data[4:])
	number, at := binary.BigEndian.Uint32(data[8:]), int64(binary.BigEndian.Uint64(data[12:]))
	h.mu.Lock()
	defer h.mu.Unlock()
	if source == node || round != h.round {
		return
	}
	key := [3]uint32{node, source, number}
	if h.unique[key] {
		h.doubles++
		return
	}
	h.unique[key] = true
	h.waits = append(h.waits, float64(now-at)/1e9)
}

func (h *heard) begin(round uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.round, h.waits, h.unique, h.doubles = round, []float64{}, map[[3]uint32]bool{}, 0
}

func (h *heard) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.waits)
}

func publish(ctx context.Context, topic *pubsub.Topic, asked order) {
	start := time.Now()
	for number := range asked.Count {
		if asked.Rate > 0 {
			time.Sleep(time.Until(start.Add(time.Duration(float64(number) / asked.Rate * 1e9))))
		}
		data := make([]byte, asked.Bytes)
		_, _ = rand.Read(data[20:])
		binary.BigEndian.PutUint32(data, uint32(asked.Round))
		binary.BigEndian.PutUint32(data[4:], uint32(asked.Node))
		binary.BigEndian.PutUint32(data[8:], uint32(number))
		binary.BigEndian.PutUint64(data[12:], uint64(time.Now().UnixNano()))
		must(topic.Publish(ctx, data))
	}
}

// gossip runs several nodes in this process, all on one topic, and does as it is told.
func gossip(ctx context.Context, lines *bufio.Scanner) {
	hosts, topics := []host.Host{}, []*pubsub.Topic{}
	all, first := &heard{waits: []float64{}, unique: map[[3]uint32]bool{}}, 0
	for lines.Scan() {
		var asked order
		must(json.Unmarshal(lines.Bytes(), &asked))
		answer := map[string]any{}
		switch asked.Op {
		case "start":
			first = asked.First
			addresses := []string{}
			for number, seed := range asked.Seeds {
				made := newHost(seedOf(seed))
				router, err := pubsub.NewGossipSub(
					ctx, made,
					pubsub.WithPeerOutboundQueueSize(queueLength), pubsub.WithValidateQueueSize(queueLength),
				)
				must(err)
				topic, err := router.Join(topicName)
				must(err)
				following, err := topic.Subscribe(pubsub.WithBufferSize(queueLength))
				must(err)
				hosts, topics = append(hosts, made), append(topics, topic)
				addresses = append(addresses, addressOf(made))
				go func() {
					for {
						message, err := following.Next(ctx)
						if err != nil {
							return
						}
						all.note(uint32(first+number), message.Data)
					}
				}()
			}
			answer["addresses"] = addresses
		case "dial":
			for _, address := range asked.Dial {
				must(hosts[asked.Node-first].Connect(ctx, peerAt(address)))
			}
		case "begin":
			all.begin(uint32(asked.Round))
			answer["cpu"] = cpuSeconds()
		case "publish":
			go publish(ctx, topics[asked.Node-first], asked)
		case "count":
			answer["count"] = all.count()
		case "report":
			all.mu.Lock()
			answer["waits"], answer["doubles"], answer["cpu"] = all.waits, all.doubles, cpuSeconds()
			all.mu.Unlock()
		default:
			must(fmt.Errorf("no such order: %s", asked.Op))
		}
		told(answer)
	}
}

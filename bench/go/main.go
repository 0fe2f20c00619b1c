// Command bench is the go-libp2p side of bench/p2p.py: the same words on the command line, the
// same frames and the same JSON lines as bench/p2p_peer.py, on the library as it comes.
package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
)

const (
	echoProtocol   = "/bench/echo/1"
	sinkProtocol   = "/bench/sink/1"
	sourceProtocol = "/bench/source/1"
	// The largest frame RoboCompute's streams allow.
	maxFrame = 262144
)

// order is one line on standard input. What it measures depends on "op".
type order struct {
	Op      string   `json:"op"`
	Address string   `json:"address"`
	Count   int      `json:"count"`
	Bytes   int      `json:"bytes"`
	Frame   int      `json:"frame"`
	Node    int      `json:"node"`
	Rate    float64  `json:"rate"`
	Round   int      `json:"round"`
	First   int      `json:"first"`
	Seeds   []string `json:"seeds"`
	Dial    []string `json:"dial"`
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func told(answer map[string]any) {
	line, err := json.Marshal(answer)
	must(err)
	fmt.Println(string(line))
}

func cpuSeconds() float64 {
	var used syscall.Rusage
	must(syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	return float64(used.Utime.Sec+used.Stime.Sec) + float64(used.Utime.Usec+used.Stime.Usec)/1e6
}

func newHost(seed []byte) host.Host {
	key, err := crypto.UnmarshalEd25519PrivateKey(ed25519.NewKeyFromSeed(seed))
	must(err)
	made, err := libp2p.New(
		libp2p.Identity(key),
		libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"),
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Security(noise.ID, noise.New),
		libp2p.Muxer(yamux.ID, yamux.DefaultTransport),
		libp2p.DisableRelay(),
		libp2p.ResourceManager(&network.NullResourceManager{}),
	)
	must(err)
	return made
}

func addressOf(made host.Host) string {
	return made.Addrs()[0].String() + "/p2p/" + made.ID().String()
}

func peerAt(address string) peer.AddrInfo {
	info, err := peer.AddrInfoFromString(address)
	must(err)
	return *info
}

func send(stream io.Writer, body []byte) error {
	frame := make([]byte, 4+len(body))
	binary.BigEndian.PutUint32(frame, uint32(len(body)))
	copy(frame[4:], body)
	_, err := stream.Write(frame)
	return err
}

func receive(stream io.Reader, into []byte) ([]byte, error) {
	var header [4]byte
	if _, err := io.ReadFull(stream, header[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(header[:])
	if size > maxFrame {
		return nil, fmt.Errorf("a frame of %d bytes", size)
	}
	_, err := io.ReadFull(stream, into[:size])
	return into[:size], err
}

func serve(made host.Host) {
	made.SetStreamHandler(echoProtocol, func(stream network.Stream) {
		defer stream.Close()
		buffered, into := bufio.NewReaderSize(stream, 65536), make([]byte, maxFrame)
		for {
			body, err := receive(buffered, into)
			if err != nil || send(stream, body) != nil {
				return
			}
		}
	})
	made.SetStreamHandler(sinkProtocol, func(stream network.Stream) {
		defer stream.Close()
		buffered, into := bufio.NewReaderSize(stream, maxFrame), make([]byte, maxFrame)
		total := uint64(0)
		for {
			body, err := receive(buffered, into)
			if err != nil || len(body) == 0 {
				break
			}
			total += uint64(len(body))
		}
		_ = send(stream, binary.BigEndian.AppendUint64(nil, total))
	})
	made.SetStreamHandler(sourceProtocol, func(stream network.Stream) {
		defer stream.Close()
		asked, err := receive(stream, make([]byte, maxFrame))
		if err != nil || len(asked) != 16 {
			return
		}
		left, frame := binary.BigEndian.Uint64(asked), binary.BigEndian.Uint64(asked[8:])
		body := make([]byte, frame)
		_, _ = rand.Read(body)
		for left > 0 {
			size := min(left, frame)
			if send(stream, body[:size]) != nil {
				return
			}
			left -= size
		}
	})
}

func open(ctx context.Context, made host.Host, to peer.ID, name string) network.Stream {
	stream, err := made.NewStream(ctx, to, protocol.ID("/bench/"+name+"/1"))
	must(err)
	return stream
}

// connect times a fresh host's way from an address to the first answer.
func connect(ctx context.Context, asked order) []float64 {
	into := make([]byte, maxFrame)
	var found []float64
	for number := range asked.Count {
		seed := sha256.Sum256(fmt.Appendf(nil, "connect-%d-%d", os.Getpid(), number))
		made := newHost(seed[:])
		to := peerAt(asked.Address)
		start := time.Now()
		must(made.Connect(ctx, to))
		stream := open(ctx, made, to.ID, "echo")
		must(send(stream, []byte("x")))
		_, err := receive(stream, into)
		must(err)
		found = append(found, time.Since(start).Seconds())
		must(made.Close())
	}
	return found
}

// measure answers one order of a connected client with the seconds of each try.
func measure(ctx context.Context, made host.Host, to peer.ID, asked order) []float64 {
	into := make([]byte, maxFrame)
	var found []float64
	switch asked.Op {
	case "round-trip":
		stream := open(ctx, made, to, "echo")
		for range asked.Count {
			start := time.Now()
			must(send(stream, make([]byte, 32)))
			_, err := receive(stream, into)
			must(err)
			found = append(found, time.Since(start).Seconds())
		}
		must(stream.Close())
	case "open":
		for range asked.Count {
			start := time.Now()
			stream := open(ctx, made, to, "echo")
			must(send(stream, []byte("x")))
			_, err := receive(stream, into)
			must(err)
			found = append(found, time.Since(start).Seconds())
			must(stream.Close())
		}
	case "up":
		body := make([]byte, asked.Frame)
		_, _ = rand.Read(body)
		for range asked.Count {
			start := time.Now()
			stream := open(ctx, made, to, "sink")
			for sent := 0; sent < asked.Bytes; sent += len(body) {
				must(send(stream, body))
			}
			must(send(stream, nil))
			answer, err := receive(stream, into)
			must(err)
			if int(binary.BigEndian.Uint64(answer)) != asked.Bytes {
				must(fmt.Errorf("%d bytes arrived", binary.BigEndian.Uint64(answer)))
			}
			found = append(found, time.Since(start).Seconds())
		}
	case "down":
		for range asked.Count {
			start := time.Now()
			stream := open(ctx, made, to, "source")
			wish := binary.BigEndian.AppendUint64(nil, uint64(asked.Bytes))
			must(send(stream, binary.BigEndian.AppendUint64(wish, uint64(asked.Frame))))
			buffered, got := bufio.NewReaderSize(stream, maxFrame), 0
			for got < asked.Bytes {
				body, err := receive(buffered, into)
				must(err)
				got += len(body)
			}
			if got != asked.Bytes {
				must(fmt.Errorf("%d bytes arrived", got))
			}
			found = append(found, time.Since(start).Seconds())
			must(stream.Close())
		}
	default:
		must(fmt.Errorf("no such order: %s", asked.Op))
	}
	return found
}

func streams(ctx context.Context, lines *bufio.Scanner) {
	made := newHost(func() []byte { seed := sha256.Sum256(fmt.Append(nil, os.Getpid())); return seed[:] }())
	serve(made)
	told(map[string]any{"address": addressOf(made)})
	for lines.Scan() {
		var asked order
		must(json.Unmarshal(lines.Bytes(), &asked))
		if asked.Op == "connect" {
			told(map[string]any{"seconds": connect(ctx, asked)})
			continue
		}
		if asked.Op == "cpu" {
			told(map[string]any{"cpu": cpuSeconds()})
			continue
		}
		to := peerAt(asked.Address)
		must(made.Connect(ctx, to))
		told(map[string]any{"seconds": measure(ctx, made, to.ID, asked)})
	}
}

func seedOf(text string) []byte {
	seed, err := hex.DecodeString(text)
	must(err)
	return seed
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	if len(os.Args) != 2 {
		must(fmt.Errorf("usage: bench streams|gossip, orders as JSON lines on standard input"))
	}
	switch os.Args[1] {
	case "streams":
		streams(context.Background(), lines)
	case "gossip":
		gossip(context.Background(), lines)
	default:
		must(fmt.Errorf("no such part: %s", os.Args[1]))
	}
}

// A publisher in Go over the socket, with the standard library only.
//
// Each event is one line. The lines of a producer are numbered 1, 2, 3, ... over all its connections; the daemon says
// up to which number it has dealt with them, so that after a cut only the rest is sent again and nothing is stored twice.
package main

import (
	"bufio"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

const (
	maxPending  = 20000
	longestWait = 2 * time.Second // between two attempts to connect
	welcomeTime = 30 * time.Second
	quietTime   = time.Second // after a welcome: then no more rejects of what it covers will come
)

var (
	ErrQueueFull = errors.New("syncevents: too many events wait for the daemon")
	ErrClosed    = errors.New("syncevents: the publisher is closed")
	ErrTooLarge  = errors.New("syncevents: the event is longer than the daemon takes")
	ErrTimeout   = errors.New("syncevents: not all events are acknowledged")
)

// Reject tells of an event that was not stored.
type Reject struct {
	ID    string
	Code  string
	Error string
}

// Publisher queues events and sends them in the background. Publishing never waits.
type Publisher struct {
	path, client string
	onReject     func(Reject)

	mu       sync.Mutex
	changed  *sync.Cond
	producer string
	lines    [][]byte // not acknowledged: lines[0] has the number acked+1
	acked    uint64
	settled  uint64 // how many of all events are dealt with; unlike acked it never begins anew
	queued   uint64
	told     uint64 // the newest number of which a reject was told
	sent     int    // how many of lines this connection was given
	everSent int    // how many of them the daemon may have
	maxFrame int    // bytes, without the line's end
	conn     net.Conn
	closed   bool
}

// NewPublisher begins to connect at once; onReject is called for each event that was not stored.
func NewPublisher(path, client string, onReject func(Reject)) *Publisher {
	p := &Publisher{path: path, client: client, onReject: onReject, producer: newUUID(), maxFrame: 262144}
	p.changed = sync.NewCond(&p.mu)
	go p.run()
	return p
}

// Publish queues one event: the envelope as it is to stand in Redis.
func (p *Publisher) Publish(envelope any) error {
	line, err := json.Marshal(envelope) // without line breaks
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	if len(line) > p.maxFrame {
		return ErrTooLarge
	}
	if len(p.lines) >= maxPending {
		return ErrQueueFull
	}
	p.lines = append(p.lines, append(line, '\n'))
	p.queued++
	p.changed.Broadcast()
	return nil
}

// Flush waits until all that was published before is dealt with: stored durably, or rejected.
func (p *Publisher) Flush(timeout time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	late := false
	timer := time.AfterFunc(timeout, func() {
		p.mu.Lock()
		late = true
		p.mu.Unlock()
		p.changed.Broadcast()
	})
	defer timer.Stop()
	for upto := p.queued; p.settled < upto; p.changed.Wait() {
		if late {
			return ErrTimeout
		}
	}
	return nil
}

// Close flushes, and ends the connection whatever comes.
func (p *Publisher) Close(timeout time.Duration) error {
	err := p.Flush(timeout)
	p.mu.Lock()
	p.closed = true
	if p.conn != nil {
		p.conn.Close()
	}
	p.mu.Unlock()
	p.changed.Broadcast()
	return err
}

func (p *Publisher) run() {
	for wait := 50 * time.Millisecond; ; {
		if p.connection() {
			wait = 50 * time.Millisecond
		}
		p.mu.Lock()
		over := p.closed
		p.mu.Unlock()
		if over {
			return
		}
		time.Sleep(wait)
		if wait *= 2; wait > longestWait {
			wait = longestWait
		}
	}
}

type message struct {
	Welcome *struct {
		Accepted uint64 `json:"accepted"`
		MaxFrame int    `json:"max_frame"`
	} `json:"welcome"`
	Ack    *uint64 `json:"ack"`
	Reject *uint64 `json:"reject"`
	ID     *string `json:"id"`
	Code   string  `json:"code"`
	Error  string  `json:"error"`
}

// connection lives as long as one connection does; it returns whether the daemon welcomed it.
func (p *Publisher) connection() bool {
	conn, err := net.Dial("unix", p.path)
	if err != nil {
		return false
	}
	defer conn.Close()
	p.mu.Lock()
	p.conn = conn
	closed := p.closed
	hello := map[string]any{"v": 1, "producer": p.producer, "client": p.client, "acked": p.acked}
	p.mu.Unlock()
	if closed {
		return false
	}
	input := bufio.NewReader(conn)
	conn.SetDeadline(time.Now().Add(welcomeTime))
	if json.NewEncoder(conn).Encode(map[string]any{"hello": hello}) != nil {
		return false
	}
	var welcome message
	line, err := input.ReadBytes('\n')
	if err != nil || json.Unmarshal(line, &welcome) != nil || welcome.Welcome == nil {
		return false // or {"error":...,"code":...}: it does not take this connection, perhaps the next one
	}
	if !p.resume(welcome.Welcome.Accepted, welcome.Welcome.MaxFrame) {
		return false
	}
	conn.SetDeadline(time.Time{})
	quiet := time.AfterFunc(quietTime, func() { p.acknowledge(conn, welcome.Welcome.Accepted) })
	defer quiet.Stop()
	over := make(chan struct{})
	go func() {
		p.read(conn, input, quiet)
		conn.Close()
		p.mu.Lock()
		p.conn = nil
		p.mu.Unlock()
		p.changed.Broadcast()
		close(over)
	}()
	p.write(conn)
	conn.Close()
	<-over
	return true
}

// resume goes on after the line that the daemon names; false when a new connection is needed.
func (p *Publisher) resume(accepted uint64, maxFrame int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if accepted < p.acked || accepted > p.acked+uint64(p.everSent) {
		// The daemon's state was set back or forgotten: a new producer, whose lines are numbered from 1.
		p.producer, p.acked, p.told, p.everSent = newUUID(), 0, 0, 0
		return false
	}
	// What is dealt with is not sent again. It stays until an ack covers it: rejects of it may follow the welcome.
	p.sent = int(accepted - p.acked)
	p.everSent = p.sent
	p.maxFrame = maxFrame
	// A line that is too long now would end every connection.
	kept := p.lines[:p.sent:p.sent]
	for _, line := range p.lines[p.sent:] {
		if len(line)-1 <= maxFrame {
			kept = append(kept, line)
			continue
		}
		p.settled++
		go p.onReject(Reject{Code: "frame_too_large", Error: ErrTooLarge.Error()})
	}
	p.lines = kept
	return true
}

func (p *Publisher) write(conn net.Conn) {
	for {
		p.mu.Lock()
		for p.sent == len(p.lines) && p.conn == conn && !p.closed {
			p.changed.Wait()
		}
		if p.conn != conn || p.closed {
			p.mu.Unlock()
			return
		}
		batch := net.Buffers(append([][]byte(nil), p.lines[p.sent:]...))
		p.sent = len(p.lines)
		p.everSent = max(p.everSent, p.sent)
		p.mu.Unlock()
		if _, err := batch.WriteTo(conn); err != nil {
			return
		}
	}
}

func (p *Publisher) read(conn net.Conn, input *bufio.Reader, quiet *time.Timer) {
	for {
		line, err := input.ReadBytes('\n')
		var said message
		if err != nil || json.Unmarshal(line, &said) != nil {
			return
		}
		quiet.Reset(quietTime)
		switch {
		case said.Ack != nil:
			p.acknowledge(conn, *said.Ack)
		case said.Reject != nil:
			p.reject(*said.Reject, said)
		default: // {"error":...,"code":...}: the daemon closes now
			return
		}
	}
}

func (p *Publisher) acknowledge(conn net.Conn, number uint64) {
	p.mu.Lock()
	if conn == p.conn && number > p.acked && number-p.acked <= uint64(p.sent) {
		dealt := int(number - p.acked)
		p.lines = append([][]byte(nil), p.lines[dealt:]...)
		p.sent, p.everSent = p.sent-dealt, p.everSent-dealt
		p.settled += uint64(dealt)
		p.acked = number
	}
	p.mu.Unlock()
	p.changed.Broadcast()
}

func (p *Publisher) reject(number uint64, said message) {
	p.mu.Lock()
	news := number > p.told // after a reconnection those above the hello's acked are told again
	p.told = max(p.told, number)
	p.mu.Unlock()
	if news {
		told := Reject{Code: said.Code, Error: said.Error}
		if said.ID != nil {
			told.ID = *said.ID
		}
		p.onReject(told)
	}
}

func max[T int | uint64](a, b T) T {
	if a > b {
		return a
	}
	return b
}

func newUUID() string {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err)
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// A subscriber in Go with the strict struct of the consumers, and Redis' protocol by hand: standard library only.
// It prints a line for each event. Redis keeps nothing for who is away: a program that must miss nothing reads the
// stream of Server-Sent Events, which resumes.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// IntegrationEvent is what the channel carries.
type IntegrationEvent struct {
	ID            string         `json:"id"`
	EventType     string         `json:"event_type"`
	IntegrationID uint           `json:"integration_id"`
	BusinessID    *uint          `json:"business_id"` // nil: of no business
	Timestamp     time.Time      `json:"timestamp"`
	Data          map[string]any `json:"data"`
	Metadata      map[string]any `json:"metadata"`
}

func main() {
	network := flag.String("network", "tcp", "tcp or unix")
	address := flag.String("redis", "127.0.0.1:6379", "where Redis listens")
	channel := flag.String("channel", "probability:integrations:orders:sync:events", "the channel")
	flag.Parse()
	for wait := 100 * time.Millisecond; ; wait = 2 * time.Second {
		err := subscribe(*network, *address, *channel)
		fmt.Fprintln(os.Stderr, err)
		time.Sleep(wait)
	}
}

func subscribe(network, address, channel string) error {
	conn, err := net.Dial(network, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "*2\r\n$9\r\nSUBSCRIBE\r\n$%d\r\n%s\r\n", len(channel), channel); err != nil {
		return err
	}
	input := bufio.NewReader(conn)
	for {
		reply, err := read(input)
		if err != nil {
			return err
		}
		parts, _ := reply.([]any)
		if len(parts) != 3 {
			return fmt.Errorf("redis: %v", reply)
		}
		kind, _ := parts[0].([]byte)
		body, _ := parts[2].([]byte)
		switch string(kind) {
		case "subscribe":
			fmt.Fprintln(os.Stderr, "subscribed")
		case "message":
			event, err := decode(body)
			if err != nil {
				fmt.Fprintf(os.Stderr, "not an event: %v: %s\n", err, body)
				continue
			}
			handle(event)
		}
	}
}

// decode is strict: a key that the struct does not have is an error.
func decode(body []byte) (event IntegrationEvent, err error) {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	err = decoder.Decode(&event)
	return event, err
}

func handle(event IntegrationEvent) {
	business := "all"
	if event.BusinessID != nil {
		business = fmt.Sprint(*event.BusinessID)
	}
	fmt.Println(event.ID, event.EventType, event.IntegrationID, business, event.Timestamp.UTC().Format(time.RFC3339))
}

// read takes one reply of Redis' protocol, version 2.
func read(input *bufio.Reader) (any, error) {
	line, err := input.ReadString('\n')
	if err != nil {
		return nil, err
	}
	line = strings.TrimSuffix(line, "\r\n")
	if line == "" {
		return nil, fmt.Errorf("redis: an empty reply")
	}
	kind, rest := line[0], line[1:]
	switch kind {
	case '-':
		return nil, fmt.Errorf("redis: %s", rest)
	case '+', ':':
		return rest, nil
	}
	size, err := strconv.Atoi(rest)
	if err != nil || size < 0 {
		return nil, err
	}
	switch kind {
	case '$':
		text := make([]byte, size+2)
		_, err = io.ReadFull(input, text)
		return text[:size], err
	case '*':
		parts := make([]any, size)
		for index := range parts {
			if parts[index], err = read(input); err != nil {
				return nil, err
			}
		}
		return parts, nil
	}
	return nil, fmt.Errorf("redis: %q", line)
}

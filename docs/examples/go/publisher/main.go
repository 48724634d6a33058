package main

import (
	"flag"
	"fmt"
	"os"
	"time"
)

// Envelope is one event; the daemon adds an id where there is none.
type Envelope struct {
	EventType     string         `json:"event_type"`
	IntegrationID uint           `json:"integration_id"`
	BusinessID    *uint          `json:"business_id,omitempty"`
	Timestamp     time.Time      `json:"timestamp"`
	Data          map[string]any `json:"data"`
	Metadata      map[string]any `json:"metadata,omitempty"`
}

func main() {
	socket := flag.String("socket", "/run/synceventsd/synceventsd.sock", "the daemon's socket")
	orders := flag.Int("orders", 10, "how many orders are synchronised")
	pause := flag.Duration("pause", 0, "between two orders")
	flag.Parse()

	publisher := NewPublisher(*socket, "go-example/1.0", func(reject Reject) {
		fmt.Fprintf(os.Stderr, "not stored: %s: %s (%s)\n", reject.Code, reject.Error, reject.ID)
	})
	business := uint(42)
	publish := func(kind string, data, metadata map[string]any) {
		event := Envelope{"integration.sync." + kind, 13, &business, time.Now(), data, metadata}
		for err := publisher.Publish(event); err != nil; err = publisher.Publish(event) {
			if err != ErrQueueFull {
				fail(err)
			}
			time.Sleep(10 * time.Millisecond) // a notification that may be lost would be dropped here instead
		}
	}

	began := time.Now()
	publish("started", map[string]any{
		"integration_id": 13, "integration_type": "shopify", "params": map[string]any{}, "started_at": began,
	}, map[string]any{"integration_type": "shopify"})
	for n := 1; n <= *orders; n++ {
		order := map[string]any{
			"order_id": fmt.Sprint(n), "order_number": fmt.Sprintf("#%d", 1000+n), "external_id": fmt.Sprint(5000 + n),
			"platform": "shopify", "status": "paid", "created_at": began,
		}
		data := map[string]any{"total_amount": 12.5, "currency": "EUR", "synced_at": time.Now()}
		for key, value := range order {
			data[key] = value
		}
		publish("order.created", data, order)
		time.Sleep(*pause)
	}
	totals := map[string]any{
		"integration_type": "shopify",
		"total_orders":     *orders, "created_orders": *orders, "updated_orders": 0, "rejected_orders": 0,
	}
	data := map[string]any{"integration_id": 13, "duration": time.Since(began), "completed_at": time.Now()}
	for key, value := range totals {
		data[key] = value
	}
	publish("completed", data, totals)
	if err := publisher.Close(time.Minute); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

package control

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// A stranger that opens connections to metrics.listen keeps a few of them, and a
// scraper is served meanwhile.
func TestMetricsAreBounded(t *testing.T) {
	status := func() Status { return Status{Schema: Schema, Version: "9.9"} }
	m := NewTCPMetrics(status, slog.New(slog.DiscardHandler))
	l, err := m.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.Use(l, "127.0.0.1:0")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	var silent []net.Conn
	for range 300 {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		silent = append(silent, conn)
	}
	response, err := http.Get("http://" + l.Addr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || !strings.Contains(string(body), `meshd_build_info{version="9.9"} 1`) {
		t.Errorf("%v\n%s", err, body)
	}
	// Which ones the server keeps is not told: it does not accept them in the order of their calls, since the
	// CPUs hand over what they have received when each gets to it.
	closed := make(chan struct{}, len(silent))
	for _, conn := range silent {
		_ = conn.SetReadDeadline(time.Now().Add(8 * time.Second)) // less than any time-out of the server
		go func() {
			if _, err := conn.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				closed <- struct{}{}
			}
		}()
	}
	late := time.After(8 * time.Second)
	for n := range len(silent) - maxOfAddress {
		select {
		case <-closed:
		case <-late:
			t.Fatalf("%d of %d connections are still open", len(silent)-n, len(silent))
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

package control

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// scrapePatience is how long a scraper may take to read the metrics, which are about
// 7 MB for 10,000 peers.
const scrapePatience = 10 * time.Second

// Metrics serves a status to Prometheus. All scrapers share one page: making it costs
// at most a fifth of a CPU however often it is asked for, and one that does not read
// holds no memory of its own.
func Metrics(status func() Status) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector{status})
	return &page{render: promhttp.HandlerFor(registry, promhttp.HandlerOpts{DisableCompression: true})}
}

// A page is an answer that is made anew when it is asked for, but not before it is
// four times as old as it took to make.
type page struct {
	render http.Handler

	mu     sync.Mutex
	fresh  time.Time // until then
	last   *recorder
	zipped []byte // the body of last; nil until somebody asks for it
}

// ServeHTTP implements http.Handler.
func (p *page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	zip := strings.Contains(r.Header.Get("Accept-Encoding"), "gzip")
	header, code, body := p.get(zip)
	// Recorders of tests have no deadline.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(scrapePatience))
	for key, values := range header {
		w.Header()[key] = values
	}
	if zip {
		w.Header().Set("Content-Encoding", "gzip")
	}
	w.Header().Set("Vary", "Accept-Encoding")
	w.WriteHeader(code)
	_, _ = w.Write(body) // a failure means that the scraper is gone
}

// get returns the page, which nobody may change.
func (p *page) get(zip bool) (header http.Header, code int, body []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if began := time.Now(); began.After(p.fresh) {
		p.last, p.zipped = &recorder{header: http.Header{}, code: http.StatusOK}, nil
		// Without the scraper's head: the format is always the text.
		p.render.ServeHTTP(p.last, &http.Request{Method: http.MethodGet})
		p.fresh = time.Now().Add(4 * time.Since(began))
	}
	if !zip {
		return p.last.header, p.last.code, p.last.body.Bytes()
	}
	if p.zipped == nil {
		began := time.Now()
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write(p.last.body.Bytes()) // a buffer takes everything
		_ = z.Close()
		p.zipped, p.fresh = b.Bytes(), p.fresh.Add(4*time.Since(began))
	}
	return p.last.header, p.last.code, p.zipped
}

// A recorder is an http.ResponseWriter that keeps the answer.
type recorder struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(code int)        { r.code = code }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }

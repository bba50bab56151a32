package control

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// scrapePatience is how long a scraper may take to read the metrics, which are about
// 7 MB for 10,000 peers.
const scrapePatience = 10 * time.Second

// Metrics serves a status to Prometheus. All scrapers share one page: making it costs at most a
// fifth of a CPU however often it is asked for, and a scraper that does not read holds no memory
// of its own. status may be called at any time, but never twice at once.
func Metrics(status func() Status) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector{status})
	render := promhttp.HandlerFor(registry, promhttp.HandlerOpts{DisableCompression: true})
	return &scrapes{pages: shared[page]{call: func() page { return renderPage(render) }}}
}

// scrapes hands out pages.
type scrapes struct{ pages shared[page] }

// A page is one answer for all scrapers, plain and packed. It must not be changed.
type page struct {
	header       http.Header
	code         int
	body, zipped []byte
}

// young tells whether a page need not be made again: it is not four times as old as it took to
// make. So whoever asks all the time gets a fifth of a CPU and no more.
func young(f *flight[page]) bool {
	return time.Since(f.ended) < 4*f.ended.Sub(f.began)
}

// renderPage makes a page.
func renderPage(render http.Handler) page {
	var r recorder
	r.header, r.code = http.Header{}, http.StatusOK
	// Without the scraper's head: the format is always the text.
	render.ServeHTTP(&r, &http.Request{Method: http.MethodGet})
	// Packed here, even if nobody asks for that, so that its cost counts for young.
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = z.Write(r.body.Bytes()) // a buffer takes everything
	_ = z.Close()
	return page{r.header, r.code, r.body.Bytes(), packed.Bytes()}
}

// ServeHTTP implements http.Handler.
func (s *scrapes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	asked := time.Now()
	ctx, stop := linger(r)
	defer stop()
	p, err := s.pages.get(ctx, func(f *flight[page]) bool {
		return young(f) || !f.began.Before(asked)
	})
	if err != nil {
		busy(w)
		return
	}
	// Recorders of tests have no deadline.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(scrapePatience))
	for key, values := range p.header {
		w.Header()[key] = values
	}
	body := p.body
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Encoding", "gzip")
		body = p.zipped
	}
	w.Header().Set("Vary", "Accept-Encoding")
	w.WriteHeader(p.code)
	_, _ = w.Write(body) // a failure means that the scraper is gone
}

// A recorder is an http.ResponseWriter that keeps the answer.
type recorder struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (r *recorder) Header() http.Header { return r.header }

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(code int) { r.code = code }

// Write implements http.ResponseWriter. It takes everything.
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }

package control

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// A scraper gets the page packed if it can unpack it, and text of others in it is
// harmless.
func TestScrape(t *testing.T) {
	handler := Metrics(func() Status { return Status{Version: "9\x1b[31m\u009b"} })
	plain, packed := httptest.NewRecorder(), httptest.NewRecorder()
	handler.ServeHTTP(plain, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	r.Header.Set("Accept-Encoding", "br, gzip;q=1.0")
	handler.ServeHTTP(packed, r)
	unpack, err := gzip.NewReader(packed.Body)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(unpack)
	want := `meshd_build_info{version="9\\u001b[31m\\u009b"} 1`
	if err != nil || !bytes.Contains(body, []byte(want)) {
		t.Errorf("%v\n%s", err, body)
	}
	for _, w := range []*httptest.ResponseRecorder{plain, packed} {
		if w.Code != http.StatusOK || !strings.HasPrefix(w.Header().Get("Content-Type"),
			"text/plain; version=0.0.4") {
			t.Errorf("%d, %v", w.Code, w.Header())
		}
	}
	if plain.Header().Get("Content-Encoding") != "" || packed.Header().Get("Content-Encoding") != "gzip" ||
		!strings.Contains(plain.Body.String(), want) {
		t.Errorf("%v, %v", plain.Header(), packed.Header())
	}
}

// Scrapers that come while a page is new share it; the next page is made when it is
// old.
func TestScrapersShareAPage(t *testing.T) {
	made := 0
	p := Metrics(func() Status { made++; return Status{} }).(*scrapes)
	for range 3 {
		p.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/metrics", nil))
		p.pages.last.began = time.Now().Add(-time.Hour) // it took an hour to make
	}
	if made != 1 {
		t.Errorf("%d pages for three scrapers at once", made)
	}
	p.pages.last.ended = p.pages.last.ended.Add(-5 * time.Hour)
	p.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if made != 2 {
		t.Errorf("%d pages, though the first was old", made)
	}
}

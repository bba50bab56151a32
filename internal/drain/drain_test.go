package drain

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.org/meshd/internal/budget"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
)

// keeper returns a Keeper for a folder, and what it tells.
func keeper(folder string) (k *Keeper, told *[]*mesh.Drain, log *nstest.Events) {
	log, told = &nstest.Events{}, &[]*mesh.Drain{}
	k = New(folder, slog.New(log), func(d *mesh.Drain) { *told = append(*told, d) })
	return k, told, log
}

// What is in force outlives the daemon, with all that was said.
func TestMaintenanceIsKept(t *testing.T) {
	folder := t.TempDir()
	k, told, log := keeper(folder)
	now := time.Now().Round(time.Second)
	first := mesh.Drain{Since: now, Until: now.Add(time.Hour), By: "ada", Reason: "new disk"}
	second := mesh.Drain{Since: now.Add(time.Minute), By: "bob", Reason: "it takes longer"}
	if err := errors.Join(k.Begin(first), k.Begin(second)); err != nil {
		t.Fatal(err)
	}
	want := second
	want.Since = first.Since // it is one maintenance
	if len(*told) != 2 || !mesh.Has(k.Conditions(), mesh.Maintenance) {
		t.Errorf("%+v", *told)
	}
	if events := log.Take(); !slices.Equal(events, []string{"drain", "drain"}) {
		t.Errorf("logged %q", events)
	}
	again, told, _ := keeper(folder)
	again.Load()
	got := again.Now()
	if got == nil || !got.Since.Equal(want.Since) || !got.Until.IsZero() || got.By != want.By ||
		got.Reason != want.Reason || len(*told) != 1 {
		t.Errorf("%+v, want %+v", got, want)
	}
	if err := errors.Join(again.End("bob"), again.End("bob")); err != nil || again.Now() != nil {
		t.Errorf("%v, %+v", err, again.Now())
	}
	last, told, _ := keeper(folder)
	if last.Load(); last.Now() != nil || len(*told) > 0 || len(last.Conditions()) > 0 {
		t.Errorf("after its end: %+v", last.Now())
	}
}

// A maintenance with an end has one, also where no meshd ran then.
func TestMaintenanceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		folder := t.TempDir()
		k, _, log := keeper(folder)
		ctx, cancel := context.WithCancel(t.Context())
		go k.Run(ctx)
		if err := k.Begin(mesh.Drain{Since: time.Now(), Until: time.Now().Add(10 * time.Minute)}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10*time.Minute - time.Second)
		if k.Now() == nil {
			t.Error("it ended too early")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := log.Take(); k.Now() != nil || !slices.Equal(got, []string{"drain", "undrain"}) {
			t.Errorf("%+v, logged %q", k.Now(), got)
		}
		if err := k.Begin(mesh.Drain{Since: time.Now(), Until: time.Now().Add(time.Minute)}); err != nil {
			t.Fatal(err)
		}
		cancel()
		synctest.Wait()
		time.Sleep(time.Hour)
		late, told, _ := keeper(folder)
		if late.Load(); late.Now() != nil || len(*told) > 0 {
			t.Errorf("%+v", late.Now())
		}
	})
}

// Where nothing can be kept the node is in maintenance all the same, and everybody is told.
func TestNothingCanBeKept(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(folder, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	k, told, _ := keeper(folder)
	if err := k.Begin(mesh.Drain{Since: time.Now()}); !errors.Is(err, ErrNotKept) || len(*told) != 1 {
		t.Errorf("%v, %v", err, *told)
	}
	if !mesh.Has(k.Conditions(), mesh.StateFailed) || mesh.Worst(k.Conditions()) != mesh.Degraded {
		t.Errorf("%+v", k.Conditions())
	}
	if err := os.Remove(folder); err != nil {
		t.Fatal(err)
	}
	if err := k.End("somebody"); err != nil || len(k.Conditions()) > 0 {
		t.Errorf("%v, %+v", err, k.Conditions())
	}
}

// A file that makes no sense is told of, and counts as none.
func TestBadFiles(t *testing.T) {
	for name, doc := range map[string]string{"empty": "", "no JSON": "drain", "no beginning": "{}",
		"another type": `{"since":5}`, "too large": `{"since":"2026-01-01T00:00:00Z","reason":"` +
			strings.Repeat("x", maxFile) + `"}`} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			if err := os.WriteFile(filepath.Join(folder, "drain"), []byte(doc), 0o644); err != nil {
				t.Fatal(err)
			}
			k, told, log := keeper(folder)
			k.Load()
			if got := log.Take(); k.Now() != nil || len(*told) > 0 || !slices.Equal(got, []string{"drain_unread"}) {
				t.Errorf("%+v, logged %q", k.Now(), got)
			}
		})
	}
}

// Whatever is in the file, it is read without harm, and written again as it was read.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"since":"2026-01-01T00:00:00Z","until":"2026-01-02T00:00:00Z","reason":"disk","by":"ada"}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		defer budget.Of(t)()
		d, err := parse(doc)
		if err != nil {
			return
		}
		folder := t.TempDir()
		k, _, _ := keeper(folder)
		if k.Begin(*d) != nil || d.Ended(time.Now()) {
			return
		}
		again, _, _ := keeper(folder)
		again.Load()
		if now := again.Now(); now == nil || !reflect.DeepEqual(now.Why(), d.Why()) {
			t.Errorf("%+v becomes %+v", d, now)
		}
	})
}

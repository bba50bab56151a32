package resolve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A fake is a DNS that answers as it is told to, in a bubble of synctest.
type fake struct {
	mu      sync.Mutex
	of      map[string]found // by network and name; what is not there does not exist
	hangs   map[string]bool  // names that are never answered
	asked   map[string][]time.Time
	open    int // at the moment
	most    int // that were open at a time
	changes int
}

func (f *fake) lookup(ctx context.Context, network, name string) ([]netip.Addr, time.Duration, error) {
	f.mu.Lock()
	if f.open++; f.open > f.most {
		f.most = f.open
	}
	if network == "ip4" {
		f.asked[name] = append(f.asked[name], time.Now())
	}
	one, known := f.of[network+" "+name]
	hangs := f.hangs[name]
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.open--
		f.mu.Unlock()
	}()
	switch {
	case hangs:
		select {
		case <-time.After(patience):
		case <-ctx.Done():
		}
		return nil, 0, ErrTimeout
	case !known:
		return nil, 0, ErrNotFound
	}
	time.Sleep(time.Millisecond)
	return one.addrs, one.ttl, one.err
}

// is sets what DNS says of a name: addresses of both families, and their time to live.
func (f *fake) is(name string, ttl time.Duration, all ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.of, "ip4 "+name)
	delete(f.of, "ip6 "+name)
	for _, ip := range addrs(all...) {
		network := "ip4"
		if ip.Is6() {
			network = "ip6"
		}
		one := f.of[network+" "+name]
		one.addrs, one.ttl = append(one.addrs, ip), ttl
		f.of[network+" "+name] = one
	}
}

// fails makes questions for one family of a name fail.
func (f *fake) fails(network, name string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.of[network+" "+name] = found{err: err}
}

func (f *fake) hang(name string, on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hangs[name] = on
}

// told returns how often answers have changed.
func (f *fake) told() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changes
}

// times returns when a name was asked for.
func (f *fake) times(name string) []time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.asked[name])
}

func addrs(all ...string) (ips []netip.Addr) {
	for _, s := range all {
		ips = append(ips, netip.MustParseAddr(s))
	}
	return ips
}

// inBubble runs a Resolver on a fake.
func inBubble(t *testing.T, f func(t *testing.T, r *Resolver, dns *fake)) {
	synctest.Test(t, func(t *testing.T) {
		dns := &fake{of: map[string]found{}, hangs: map[string]bool{}, asked: map[string][]time.Time{}}
		r := New(Options{Log: slog.New(slog.DiscardHandler), Changed: func() {
			dns.mu.Lock()
			dns.changes++
			dns.mu.Unlock()
		}})
		r.lookup = dns.lookup
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		f(t, r, dns)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// after lets time pass.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// expect holds the answer for a name to its addresses and its error.
func expect(t *testing.T, r *Resolver, name, want string, err error) {
	t.Helper()
	a, known := r.Answers()[name]
	if got := texts(a.Addrs); !known || got != want || !errors.Is(a.Err, err) || (err == nil) != (a.Err == nil) {
		t.Errorf("%s is %q, %v (%t), want %q, %v", name, got, a.Err, known, want, err)
	}
}

func TestAnswers(t *testing.T) {
	inBubble(t, func(t *testing.T, r *Resolver, dns *fake) {
		dns.is("a.lan", time.Minute, "10.0.0.2", "10.0.0.1", "2001:db8::1")
		dns.fails("ip4", "b.lan", ErrServer)
		dns.fails("ip6", "b.lan", ErrServer)
		r.Follow([]string{"a.lan", "b.lan", "c.lan"})
		after(time.Second)
		if all := r.Answers(); len(all) != 3 {
			t.Errorf("%+v", all)
		}
		// The fake does not sort, as ask does.
		expect(t, r, "a.lan", "10.0.0.2 10.0.0.1 2001:db8::1", nil)
		expect(t, r, "b.lan", "", ErrServer)
		expect(t, r, "c.lan", "", ErrNotFound)
		if dns.told() != 3 {
			t.Errorf("%d changes", dns.told())
		}
		r.Follow([]string{"b.lan"})
		if all := r.Answers(); len(all) != 1 {
			t.Errorf("a forgotten name is there: %+v", all)
		}
	})
}

// The last good answer stays for ever, with its time, and nothing is told again while DNS fails the same way.
func TestLastGoodAnswerStays(t *testing.T) {
	inBubble(t, func(t *testing.T, r *Resolver, dns *fake) {
		dns.is("a.lan", time.Minute, "10.0.0.1", "2001:db8::1")
		r.Follow([]string{"a.lan"})
		after(time.Second)
		good := r.Answers()["a.lan"].At
		for _, err := range []error{ErrServer, ErrNotFound, ErrTimeout} {
			dns.fails("ip4", "a.lan", err)
			dns.fails("ip6", "a.lan", err)
			before := dns.told()
			after(24 * time.Hour)
			expect(t, r, "a.lan", "10.0.0.1 2001:db8::1", err)
			if at := r.Answers()["a.lan"].At; !at.Equal(good) || dns.told() != before+1 {
				t.Errorf("%s instead of %s, %d changes", at, good, dns.told()-before)
			}
		}
		dns.is("a.lan", time.Minute, "10.0.0.1", "2001:db8::1")
		after(time.Hour)
		expect(t, r, "a.lan", "10.0.0.1 2001:db8::1", nil)
	})
}

// An answer of which nothing is usable takes nothing away; without a good one before, it is what there is.
func TestUnusableAnswers(t *testing.T) {
	inBubble(t, func(t *testing.T, r *Resolver, dns *fake) {
		bad := addrs("127.0.0.1")[0]
		r.usable = func(_ string, ip netip.Addr) bool { return ip != bad }
		dns.is("a.lan", time.Minute, "10.0.0.1")
		dns.is("b.lan", time.Minute, "127.0.0.1")
		r.Follow([]string{"a.lan", "b.lan"})
		after(time.Second)
		expect(t, r, "b.lan", "127.0.0.1", nil)
		dns.is("a.lan", time.Minute, "127.0.0.1")
		after(2 * time.Minute)
		expect(t, r, "a.lan", "10.0.0.1", ErrUnusable)
		dns.is("a.lan", time.Minute, "127.0.0.1", "10.0.0.2")
		dns.is("b.lan", time.Minute, "10.0.0.3")
		after(2 * time.Minute)
		expect(t, r, "a.lan", "127.0.0.1 10.0.0.2", nil)
		expect(t, r, "b.lan", "10.0.0.3", nil)
	})
}

// A family whose question fails keeps its addresses; one that is gone from DNS loses them.
func TestFamiliesApart(t *testing.T) {
	inBubble(t, func(t *testing.T, r *Resolver, dns *fake) {
		dns.is("a.lan", time.Minute, "10.0.0.1", "2001:db8::1")
		r.Follow([]string{"a.lan"})
		after(time.Second)
		dns.fails("ip6", "a.lan", ErrTimeout)
		after(time.Hour)
		expect(t, r, "a.lan", "10.0.0.1 2001:db8::1", nil)
		dns.is("a.lan", time.Minute, "10.0.0.2")
		after(time.Hour)
		expect(t, r, "a.lan", "10.0.0.2", nil)
	})
}

// The time to live says when to ask again, within bounds; a doubt does so sooner, but not each time.
func TestWhenToAskAgain(t *testing.T) {
	for _, test := range []struct {
		ttl, from, to time.Duration
	}{
		{0, 30 * time.Second, 33 * time.Second}, {time.Second, 30 * time.Second, 33 * time.Second},
		{2 * time.Minute, 2 * time.Minute, 132 * time.Second}, {48 * time.Hour, time.Hour, 66 * time.Minute},
	} {
		t.Run(test.ttl.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *Resolver, dns *fake) {
				dns.is("a.lan", test.ttl, "10.0.0.1")
				r.Follow([]string{"a.lan"})
				after(3 * test.to)
				times := dns.times("a.lan")
				if len(times) < 3 {
					t.Fatalf("asked at %v", times)
				}
				for i, at := range times[1:] {
					if pause := at.Sub(times[i]); pause < test.from || pause > test.to+time.Second {
						t.Errorf("asked again after %s", pause)
					}
				}
			})
		})
	}
}

func TestDoubt(t *testing.T) {
	inBubble(t, func(t *testing.T, r *Resolver, dns *fake) {
		dns.is("a.lan", time.Hour, "10.0.0.1")
		r.Follow([]string{"a.lan"})
		after(time.Minute)
		dns.is("a.lan", time.Hour, "10.0.0.2")
		r.Doubt("a.lan")
		r.Doubt("nobody.lan")
		after(10 * time.Millisecond)
		expect(t, r, "a.lan", "10.0.0.2", nil)
		for range 100 { // all the time
			r.Doubt("a.lan")
			after(100 * time.Millisecond)
		}
		times := dns.times("a.lan")
		if len(times) < 3 || len(times) > 5 {
			t.Errorf("asked %d times", len(times))
		}
		for i, at := range times[1:] {
			if at.Sub(times[i]) < Pause {
				t.Errorf("asked after %s", at.Sub(times[i]))
			}
		}
	})
}

// Names that hang take no place of the others, and few questions are open at a time.
func TestHangingNamesDelayNoOthers(t *testing.T) {
	inBubble(t, func(t *testing.T, r *Resolver, dns *fake) {
		var names []string
		for i := range 100 {
			name := fmt.Sprintf("hang-%d.lan", i)
			dns.hang(name, true)
			names = append(names, name)
		}
		r.Follow(names)
		after(5 * time.Minute) // all are known to fail
		dns.is("good.lan", time.Second, "10.0.0.1")
		r.Follow(append(names, "good.lan"))
		after(time.Second)
		expect(t, r, "good.lan", "10.0.0.1", nil)
		dns.is("good.lan", time.Second, "10.0.0.2")
		after(Soonest + Soonest/10 + time.Second)
		expect(t, r, "good.lan", "10.0.0.2", nil)
		if dns.most > 2*mostAsked { // one for each family
			t.Errorf("%d questions at a time", dns.most)
		}
		for _, name := range names {
			dns.hang(name, false)
			dns.is(name, time.Minute, "10.1.0.1")
		}
		after(10 * time.Minute)
		for _, name := range names {
			expect(t, r, name, "10.1.0.1", nil)
		}
	})
}

// Run ends while questions hang, and a name that is followed anew while its question is open is asked for.
func TestFollowWhileAsking(t *testing.T) {
	inBubble(t, func(t *testing.T, r *Resolver, dns *fake) {
		dns.hang("a.lan", true)
		r.Follow([]string{"a.lan"})
		after(time.Second)
		for range 20 {
			r.Follow(nil)
			r.Follow([]string{"a.lan"})
			after(100 * time.Millisecond)
		}
		dns.hang("a.lan", false)
		dns.is("a.lan", time.Minute, "10.0.0.1")
		after(time.Minute)
		expect(t, r, "a.lan", "10.0.0.1", nil)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.open != 0 || r.bad != 0 {
			t.Errorf("%d questions are open, %d bad", r.open, r.bad)
		}
	})
}

// Await returns once the names are known, or at its end.
func TestAwait(t *testing.T) {
	inBubble(t, func(t *testing.T, r *Resolver, dns *fake) {
		dns.is("a.lan", time.Minute, "10.0.0.1")
		dns.hang("b.lan", true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		r.Await(ctx, []string{"a.lan"})
		if time.Since(began) > 100*time.Millisecond {
			t.Errorf("after %s", time.Since(began))
		}
		expect(t, r, "a.lan", "10.0.0.1", nil)
		r.Await(ctx, []string{"a.lan", "b.lan"})
		if time.Since(began) != time.Second {
			t.Errorf("after %s", time.Since(began))
		}
	})
}

// Rotation changes nothing; there are at most eight addresses, of both families if there are both.
func TestFew(t *testing.T) {
	many := func(format string) (all []netip.Addr) {
		for i := range 20 {
			all = append(all, netip.MustParseAddr(fmt.Sprintf(format, i)))
		}
		return all
	}
	four, six := many("10.0.0.%d"), many("2001:db8::%x")
	for _, test := range []struct {
		v4, v6       int
		want4, want6 int
	}{{0, 0, 0, 0}, {3, 0, 3, 0}, {20, 0, 8, 0}, {0, 20, 0, 8}, {20, 20, 4, 4}, {20, 1, 7, 1}, {1, 20, 1, 7},
		{4, 4, 4, 4}} {
		t.Run(fmt.Sprint(test.v4, " and ", test.v6), func(t *testing.T) {
			got := texts(few(four[:test.v4], six[:test.v6]))
			want := texts(slices.Concat(four[:test.want4], six[:test.want6]))
			if got != want {
				t.Errorf("%s, want %s", got, want)
			}
		})
	}
	if strings.Contains(texts(nil), " ") {
		t.Error("no address has a text")
	}
}

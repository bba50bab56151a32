package control

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestSpeed(t *testing.T) {
	cancelled := make(chan struct{})
	c := NewClient(serve(t, Source{
		Status: func() Status { return Status{Schema: Schema, Node: "a"} },
		Speed: func(ctx context.Context, r SpeedRequest, each func(SpeedProgress)) (Speed, bool, error) {
			switch r.Peer {
			case "well", "ends":
				each(SpeedProgress{Way: SpeedOut, BPS: 1e9})
			case "busy":
				return Speed{}, true, &Refusal{Code: "busy", Message: "later"}
			case "slow":
				return Speed{}, false, errors.New("seconds must be less")
			case "left":
				each(SpeedProgress{Way: SpeedOut})
				<-ctx.Done()
				close(cancelled)
				return Speed{}, true, &Refusal{Code: "failed", Message: "gone"}
			default:
				return Speed{}, false, nil
			}
			if r.Peer == "ends" {
				return Speed{}, true, &Refusal{Code: "failed", Message: "the link is down"}
			}
			return Speed{Schema: Schema, Peer: r.Peer, Out: SpeedWay{BPS: 2e9}}, true, nil
		}}))
	told := 0
	measure := func(ctx context.Context, peer string) (Speed, error) {
		told = 0
		return c.Speed(ctx, SpeedRequest{Peer: peer, Seconds: 2}, func(SpeedProgress) { told++ })
	}
	if s, err := measure(t.Context(), "well"); err != nil || s.Out.BPS != 2e9 || told != 1 {
		t.Errorf("%+v, %v, told %d times", s, err, told)
	}
	for peer, code := range map[string]string{"busy": "busy", "ends": "failed"} {
		t.Run(peer, func(t *testing.T) {
			_, err := measure(t.Context(), peer)
			if r, ok := errors.AsType[*Refusal](err); !ok || r.Code != code || ExitCode(err) != 1 {
				t.Errorf("%v", err)
			}
		})
	}
	if _, err := measure(t.Context(), "nobody"); !errors.Is(err, ErrNoPeer) {
		t.Errorf("%v", err)
	}
	if _, err := measure(t.Context(), "slow"); err == nil || ExitCode(err) != 1 {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := c.Speed(ctx, SpeedRequest{Peer: "left"}, func(SpeedProgress) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	<-cancelled // the measurement ends with its asker
	w := httptest.NewRecorder()
	routes(Source{}).ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/speed", strings.NewReader("{}")))
	if w.Code != http.StatusForbidden {
		t.Errorf("without credentials: %d", w.Code)
	}
}

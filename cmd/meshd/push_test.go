package main

import (
	"context"
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// Only a yes is a yes; Ctrl-C at the question is none, whatever is typed later.
func TestQuestionOfPush(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	silent, writer := io.Pipe()
	defer writer.Close()
	for name, test := range map[string]struct {
		ctx  context.Context
		in   io.Reader
		want bool
	}{
		"yes":     {t.Context(), strings.NewReader("Yes\n"), true},
		"no":      {t.Context(), strings.NewReader("\n"), false},
		"nothing": {t.Context(), strings.NewReader(""), false},
		"Ctrl-C":  {ended, silent, false},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := &cobra.Command{}
			cmd.SetContext(test.ctx)
			cmd.SetIn(test.in)
			cmd.SetErr(io.Discard)
			if got := (pushing{}).asker(cmd)(1, 0, 0); got != test.want {
				t.Errorf("%v", got)
			}
		})
	}
}

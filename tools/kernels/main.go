// Command kernels is `make test-kernels` and `make bench-kernels`: it boots Debian's kernels in a virtual
// machine, without help of the processor, and runs end-to-end tests there, or measures. The machine's root is
// this one's, over 9p, with an overlay that takes what is written.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// main reads the flags. A signal ends the machine that runs, through the context of its command.
func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	bin := flag.String("bin", "bin", "where meshd, meshtui and e2e.test are")
	work := flag.String("work", "/var/tmp/meshd-kernels",
		"where kernels are unpacked; they are kept for the next time")
	only := flag.String("only", "", "kernels to boot, by the beginning of their version: 6.1.")
	measure := flag.Bool("bench", false, "measure, and test nothing")
	modes := flag.String("modes", "",
		"ways of joining pods to measure, such as \"vxlan@bridge tcx\"; the default is all")
	loads := flag.String("loads", "", "loads to measure, such as tcp1,rr; the default is all")
	repeats := flag.Int("repeats", 3, "how often each load is measured")
	out := flag.String("out", "", "folder of the benchmarks.md that takes the tables (default: only print)")
	tests := flag.String("tests", "", "tests to run, separated by commas, without \"Test\"; the default is all")
	flag.Parse()
	var err error
	if *measure {
		err = bench(ctx, *bin, *work, *only, *out, *repeats, strings.Fields(*modes), split(*loads))
	} else {
		err = run(ctx, *bin, *work, chosen(*only, *tests))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "kernels: %v\n", err)
		os.Exit(1)
	}
}

// split returns what commas separate; nothing where there is nothing.
func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
}

// run boots all kernels, also after one has failed: which of them fail says what is wrong.
func run(ctx context.Context, bin, work string, boots []boot) error {
	var errs []error
	for _, b := range boots {
		began := time.Now()
		k, err := unpack(ctx, work, b.kernel)
		if err == nil {
			err = k.test(ctx, b, bin)
		}
		verdict := "ok "
		if err != nil {
			verdict = "BAD"
			errs = append(errs, fmt.Errorf("%s %s: %w", b.kernel, b.args, err))
		}
		fmt.Printf("%s %s %s %s (%v)\n", verdict, k.version, b.suites, b.args, time.Since(began).Round(time.Second))
	}
	return errors.Join(errs...)
}

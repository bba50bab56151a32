package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/text"
	"example.org/meshd/internal/typed"
)

// captureCommand returns `meshd capture`.
func captureCommand(g *globals) *cobra.Command {
	var request control.CaptureRequest
	var last typed.Span
	cmd := &cobra.Command{
		Use:   "capture [NODE|ADDRESS]",
		Short: "Copy the packets of pods to and from a node to stdout, as pcapng",
		Long: `Copy the inner packets that go to a node and come from it, or to and from all of them, to stdout:
what pods send and get, without the headers of the mesh, also where packets travel encrypted. The
format is pcapng, for tcpdump, tshark and wireshark. Packets keep the way that they have, and are not
delayed: if the reader is too slow, copies are lost, and counted in the file.

It ends after -n packets or the time, with Ctrl-C, or when the reader does. At most two captures run
at a time. Packets that the kernel has merged or has yet to cut are copied in one piece.
Only root and members of the group mesh-admin may capture.`,
		Example: "  meshd capture edge-2 | tcpdump -nr -\n" +
			"  meshd capture -n 100 --port 53 > dns.pcapng\n  meshd capture edge-2 | wireshark -k -i -",
		Args:              arguments(0, 1),
		ValidArgsFunction: peerNames(g, ""),
		RunE: func(cmd *cobra.Command, args []string) error {
			request.Seconds = time.Duration(last).Seconds()
			out, err := binary(cmd.OutOrStdout())
			if err != nil {
				return err
			}
			client := g.client()
			defer client.Close()
			if len(args) > 0 {
				if request.Peer, err = whom(cmd.Context(), client, args[0], cmd.ErrOrStderr()); err != nil {
					return err
				}
			}
			got, err := client.Capture(cmd.Context(), request, out)
			if err != nil && !errors.Is(err, syscall.EPIPE) { // the reader has had enough
				return meant(cmd.Context(), client, request.Peer, err)
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "meshd: captured %d packets, lost %d\n", got.Packets, got.Lost)
			return nil
		},
	}
	flags := cmd.Flags()
	flags.IntVarP(&request.Count, "count", "n", 0, "end after so many `packets`")
	flags.VarP(&last, "time", "t", "end after this `time`, at most 1h")
	flags.IntVarP(&request.Snap, "snap", "s", 65535, "keep so many `bytes` of each packet")
	flags.StringVar(&request.Host, "host", "", "only packets from or to this `address`")
	flags.IntVar(&request.Port, "port", 0, "only TCP and UDP from or to this `port`")
	choices(cmd, "snap", "64", "128", "65535")
	choices(cmd, "time", "10s", "1m", "10m")
	return cmd
}

// binary returns where to write what is no text. A terminal is no place for it.
func binary(w io.Writer) (io.Writer, error) {
	safe, ok := w.(*text.Writer)
	if !ok {
		return w, nil
	}
	if file, ok := safe.Unwrap().(*os.File); ok && text.IsTerminal(file) {
		return nil, fmt.Errorf("%w: a capture is no text: `meshd capture NODE | tcpdump -nr -` shows it, "+
			"`meshd capture NODE > FILE` keeps it", errUsage)
	}
	return safe.Unwrap(), nil
}

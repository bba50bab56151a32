package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"example.org/meshd/configs"
	"example.org/meshd/internal/config"
	"example.org/meshd/internal/migrate"
)

// initCommand returns `meshd init`. It writes to stdout and never to /etc/mesh.toml: a file that is
// there must not be lost.
func initCommand() *cobra.Command {
	var flannel, wireGuard []string
	cmd := &cobra.Command{
		Use:   "init [--from-flannel FILE... | --from-wg FILE...]",
		Short: "Print a commented starter file, or one drafted from flannel or WireGuard",
		Long: `Print a commented file to start from. --from-flannel drafts it from flannel's
net-conf.json and a list of its hosts: leases from etcd, or nodes of Kubernetes. --from-wg drafts it
from wg-quick files: one of them, or one of each host. "-" stands for standard input. The file and
standard error say what could not be carried over. Exit code 1: the draft is incomplete.`,
		Example: `  meshd init > /etc/mesh.toml
  etcdctl get --prefix /coreos.com/network | meshd init --from-flannel - > mesh.toml
  kubectl get nodes -o json > nodes.json && meshd init --from-flannel net-conf.json nodes.json > mesh.toml
  meshd init --from-wg edge-1/wg0.conf edge-2/wg0.conf > mesh.toml`,
		Args: cobra.ArbitraryArgs, // more FILEs: a flag takes the first one only
		RunE: func(cmd *cobra.Command, args []string) error {
			var draft func([]migrate.File) (*migrate.Draft, error)
			switch {
			// nil tells a flag that was not given; one that was given has at least a file.
			case flannel != nil && wireGuard != nil:
				return fmt.Errorf("%w: use either --from-flannel or --from-wg", errUsage)
			case flannel != nil:
				draft = migrate.FromFlannel
			case wireGuard != nil:
				draft = migrate.FromWireGuard
			case len(args) > 0:
				return fmt.Errorf("%w: expected `meshd %s`: files need one of the flags", errUsage, cmd.Use)
			default:
				_, err := cmd.OutOrStdout().Write(configs.Starter)
				return err
			}
			files, err := readAll(cmd.InOrStdin(), slices.Concat(flannel, wireGuard, args))
			if err != nil {
				return err
			}
			d, err := draft(files)
			if err != nil {
				return err
			}
			return printDraft(cmd.OutOrStdout(), cmd.ErrOrStderr(), d)
		},
	}
	cmd.Flags().StringArrayVar(&flannel, "from-flannel", nil, "draft from the `FILE`s of flannel")
	cmd.Flags().StringArrayVar(&wireGuard, "from-wg", nil, "draft from the `FILE`s of wg-quick")
	return cmd
}

// readAll reads files; "-" stands for standard input.
func readAll(stdin io.Reader, paths []string) (files []migrate.File, err error) {
	for _, path := range paths {
		f := migrate.File{Name: path}
		if path == "-" {
			f.Name = "standard input"
			f.Content, err = io.ReadAll(stdin)
		} else {
			f.Content, err = os.ReadFile(path)
		}
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// printDraft prints a draft on stdout and what is missing in it on stderr, so that the draft can be
// redirected into a file. It returns an error if the draft is incomplete.
func printDraft(stdout, stderr io.Writer, d *migrate.Draft) error {
	doc := d.TOML()
	// An incomplete draft is printed all the same: filling gaps is less work than starting over.
	if _, err := stdout.Write(doc); err != nil {
		return err
	}
	for _, n := range d.Notes {
		fmt.Fprintf(stderr, "meshd: not carried over: %s\n", n)
	}
	// The draft is judged by the same rules as any file: here they say what is left to fill in.
	_, err := config.Parse("mesh.toml", doc)
	faults, bad := errors.AsType[config.Faults](err)
	if !bad {
		return err
	}
	fmt.Fprintln(stderr, faults)
	return errors.New("draft incomplete: fix the errors above, then run `meshd check`")
}

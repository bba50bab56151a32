package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/source"
	"example.org/meshd/internal/survey"
	"example.org/meshd/internal/wireguard"
)

// keyCommand returns `meshd key`. Only it ever makes a private key: a package that made one would give
// clones of one image the same, and a daemon that did would change who this host is.
func keyCommand(g *globals) *cobra.Command {
	var path string
	var public bool
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Print the public key of this host, and make the private key if there is none",
		Long: `Print the public key of this host, which is public_key of its node in the file. If there is no
private key yet, make one: a file that only the service may read. It is never overwritten, and the key
itself is never printed. The path is wireguard.private_key of the file of --config, or else
/etc/meshd/private.key. With --public none is made: exit code 1 if there is none.`,
		Example: `  ssh edge-2 sudo meshd key
  meshd key --public`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if path == "" {
				path = keyPath(cmd.Context(), g.config)
			}
			key, made, err := hostKey(cmd.Context(), path, public)
			if err != nil {
				return keyProblem(path, err)
			}
			if made { // stdout has the key alone, so that scripts can take it
				fmt.Fprintf(cmd.ErrOrStderr(), "meshd: made %s: write the public key into the node of this host, as "+
					"public_key = \"%s\"\n", path, key.Public())
			}
			if g.json {
				return printJSON(cmd.OutOrStdout(), keyAnswer{key.Public().String(), path, made})
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), key.Public())
			return err
		},
	}
	cmd.Flags().StringVar(&path, "private-key", "", "`path` of the private key; default: that of the file")
	cmd.Flags().BoolVar(&public, "public", false, "make no key")
	return cmd
}

// A keyAnswer is what `meshd key --json` prints.
type keyAnswer struct {
	PublicKey string `json:"public_key"`
	Path      string `json:"private_key"` // of the file
	Made      bool   `json:"made"`        // by this call
}

// keyPath returns where the private key of this host is. The file of the mesh may have faults: a key that is
// missing in it may be the one that is about to be made.
func keyPath(ctx context.Context, path string) string {
	doc, err := source.Read(ctx, path, config.MaxSize)
	if err != nil {
		doc = nil // the default
	}
	return config.PrivateKeyPath(path, doc)
}

// hostKey returns the private key of this host, and whether it was made now.
func hostKey(ctx context.Context, path string, public bool) (key wireguard.Private, made bool, err error) {
	key, err = wireguard.ReadKey(ctx, path)
	if public || !errors.Is(err, wireguard.ErrNoKey) {
		return key, false, err
	}
	if key, err = wireguard.MakeKey(path); err == nil {
		return key, true, nil
	}
	if errors.Is(err, wireguard.ErrKeyExists) { // another call was faster
		key, err = wireguard.ReadKey(ctx, path)
	}
	return key, false, err
}

// keyProblem adds what to do to the reason why there is no key.
func keyProblem(path string, err error) error {
	switch {
	case errors.Is(err, wireguard.ErrHangs):
		return err
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %w: run `sudo meshd key`", control.ErrPermission, err)
	}
	return fmt.Errorf("%w: %s", err, survey.KeyRemedy(path, err))
}

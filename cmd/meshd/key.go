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
	var public, next, activate, force bool
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Print the public key of this host, and make the private key if there is none",
		Long: `Print the public key of this host, which is public_key of its node in the file. If there is no
private key yet, make one: a file that only the service may read. It is never overwritten, and the key
itself is never printed. The path is wireguard.private_key of the file of --config, or else
/etc/meshd/private.key. With --public none is made: exit code 1 if there is none.

A host changes its key in two steps. --next makes a second private key beside the first one, at PATH.next,
and prints its public key, which is next_public_key of the node in the file. Once all hosts have that file,
--activate here makes the second key the first one. The key before is kept at PATH.old. --activate asks the
meshd that runs here, and refuses while a host that is up has another file: that host would take nothing from
this one any more. --force does it anyway.`,
		Example: `  ssh edge-2 sudo meshd key
  meshd key --public
  meshd key --next
  meshd key --activate`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if activate && (next || public) {
				return fmt.Errorf("%w: --activate goes with neither --next nor --public", errUsage)
			}
			if force && !activate {
				return fmt.Errorf("%w: --force is for --activate", errUsage)
			}
			if path == "" {
				path = keyPath(cmd.Context(), g.config)
			}
			call := keyCall{path: path, file: g.config, public: public, force: force}
			switch {
			case activate:
				return call.activate(cmd, g)
			case next:
				return call.next(cmd, g.json)
			}
			return call.own(cmd, g.json)
		},
	}
	cmd.Flags().StringVar(&path, "private-key", "", "`path` of the private key; default: that of the file")
	cmd.Flags().BoolVar(&public, "public", false, "make no key")
	cmd.Flags().BoolVar(&next, "next", false, "the same for the next key, at PATH.next")
	cmd.Flags().BoolVar(&activate, "activate", false, "make the next key the key of this host")
	cmd.Flags().BoolVar(&force, "force", false, "with --activate: whatever files the other hosts have")
	return cmd
}

// A keyAnswer is what `meshd key --json` prints.
type keyAnswer struct {
	PublicKey string `json:"public_key"`
	Path      string `json:"private_key"` // of the file
	Made      bool   `json:"made"`        // by this call
}

// A keyCall is one call of `meshd key`.
type keyCall struct {
	path, file string // of the private key, and of the mesh
	public     bool   // make none
	force      bool   // do not ask what the other hosts know
}

// own prints the key of this host.
func (k keyCall) own(cmd *cobra.Command, json bool) error {
	key, made, err := hostKey(cmd.Context(), wireguard.ReadKey, k.path, k.public)
	if err != nil {
		return keyProblem(k.path, err)
	}
	if made {
		k.say(cmd, "made %s: write the public key into the node of this host, as public_key = \"%s\"", k.path,
			key.Public())
	}
	return printKey(cmd, json, keyAnswer{key.Public().String(), k.path, made})
}

// next prints the next key of this host.
func (k keyCall) next(cmd *cobra.Command, json bool) error {
	path := wireguard.NextPath(k.path)
	key, made, err := hostKey(cmd.Context(), wireguard.ReadKeyFile, path, k.public)
	switch {
	case errors.Is(err, wireguard.ErrNoKey):
		return fmt.Errorf("%w: run `meshd key --next` to make one", err)
	case err != nil:
		return keyProblem(path, err)
	}
	if made {
		k.say(cmd, "made %s: write the public key into the node of this host, as next_public_key = \"%s\"; once "+
			"all hosts have that file, run `meshd key --activate` here", path, key.Public())
	}
	return printKey(cmd, json, keyAnswer{key.Public().String(), path, made})
}

// activate makes the next key the key of this host.
func (k keyCall) activate(cmd *cobra.Command, g *globals) error {
	path := wireguard.NextPath(k.path)
	next, err := wireguard.ReadKeyFile(cmd.Context(), path)
	switch {
	case errors.Is(err, wireguard.ErrNoKey):
		return fmt.Errorf("%w: run `meshd key --next` to make one; if it was made the key before, `meshd key "+
			"--public` prints it", err)
	case err != nil:
		return keyProblem(path, err)
	}
	listed := listingOf(cmd.Context(), k.file, next.Public())
	if listed == unlisted {
		return fmt.Errorf("no node in %s has the key %s, so the other hosts would take nothing from this one: "+
			"write it as next_public_key of this host's node, on all hosts", k.file, next.Public())
	}
	if !k.force {
		client := g.client()
		defer client.Close()
		if err := k.others(cmd, client, next.Public(), listed); err != nil {
			return err
		}
	}
	if next, err = wireguard.ActivateKey(cmd.Context(), k.path); err != nil {
		return keyProblem(k.path, err)
	}
	k.say(cmd, "this host has another key: meshd takes it within a second, and the other hosts follow; then "+
		"write it as public_key = \"%s\" of the node, and delete next_public_key. The key before is in %s",
		next.Public(), wireguard.OldPath(k.path))
	return printKey(cmd, g.json, keyAnswer{next.Public().String(), k.path, false})
}

// say writes for people. stdout has the key alone, so that scripts can take it.
func (k keyCall) say(cmd *cobra.Command, format string, args ...any) {
	fmt.Fprintf(cmd.ErrOrStderr(), "meshd: "+format+"\n", args...)
}

// printKey writes the answer.
func printKey(cmd *cobra.Command, json bool, a keyAnswer) error {
	if json {
		return printJSON(cmd.OutOrStdout(), a)
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), a.PublicKey)
	return err
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

// hostKey returns a private key of this host, and whether it was made now.
func hostKey(ctx context.Context, read func(context.Context, string) (wireguard.Private, error), path string,
	public bool) (key wireguard.Private, made bool, err error) {
	key, err = read(ctx, path)
	if public || !errors.Is(err, wireguard.ErrNoKey) {
		return key, false, err
	}
	if key, err = wireguard.MakeKey(path); err == nil {
		return key, true, nil
	}
	if errors.Is(err, wireguard.ErrKeyExists) { // another call was faster
		key, err = read(ctx, path)
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

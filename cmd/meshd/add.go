package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/google/renameio/v2"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/source"
)

// addedAnswer is what `meshd init --add --json` prints.
type addedAnswer struct {
	Path    string   `json:"path"`
	Name    string   `json:"name"`
	Address string   `json:"address"` // with its port; empty: the node calls the others
	Subnets []string `json:"subnets"`
}

// addNode adds a node to the file of --config: NAME ADDRESS [SUBNET...], or NAME alone of a node that has a
// key and calls the others. Comments and all other nodes stay as they are. The file is replaced as a whole,
// or not at all.
func addNode(ctx context.Context, stdout, stderr io.Writer, g *globals, key string, args []string) error {
	if len(args) < 2 && (len(args) == 0 || key == "") {
		return fmt.Errorf("%w: expected `meshd init --add NAME ADDRESS [SUBNET...]`, or `meshd init --add NAME "+
			"--public-key KEY` for a node without an address", errUsage)
	}
	n := config.NewNode{Name: args[0], PublicKey: key}
	if len(args) > 1 {
		n.Address, n.Subnets = args[1], args[2:]
	}
	path, doc, info, err := readForEdit(ctx, g.config)
	if err != nil {
		return err
	}
	edit, err := config.NewEdit(path, doc)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return fmt.Errorf("%s has the errors above: nothing was added", path)
	}
	doc, file, err := edit.Add(n)
	if faults, ok := errors.AsType[config.Faults](err); ok {
		for _, f := range faults {
			fmt.Fprintf(stderr, "meshd: %s: %s\n", f.Key, f.Message)
		}
		return fmt.Errorf("%s stays as it is: node %q was not added", path, n.Name)
	}
	if err != nil {
		return fmt.Errorf("add node %q to %s: %w", n.Name, path, err)
	}
	if err := replace(path, doc, info); err != nil {
		return err
	}
	for _, w := range file.Warnings() {
		fmt.Fprintln(stderr, w)
	}
	return tellAdded(stdout, path, file.Nodes[len(file.Nodes)-1], g.json)
}

// tellAdded says what node was added to the file at path.
func tellAdded(stdout io.Writer, path string, n config.Node, asJSON bool) error {
	told, at := addedAnswer{Path: path, Name: n.Name}, "without an address"
	if len(n.Addresses) > 0 {
		told.Address = n.Addresses[0].String()
		at = "at " + n.Addresses[0].Host()
	}
	for _, p := range n.Subnets {
		told.Subnets = append(told.Subnets, p.String())
	}
	if asJSON {
		return printJSON(stdout, told)
	}
	_, err := fmt.Fprintf(stdout, "%s: added %s %s with %s: copy the file to the other hosts\n", path, n.Name,
		at, strings.Join(told.Subnets, " and "))
	return err
}

// readForEdit returns the content of the file at a path, and what is known of it. real is the path without
// symbolic links: what a link points to is replaced, and not the link. The content comes first, since that
// read alone has a deadline (package source): a file system that hangs is found by it.
func readForEdit(ctx context.Context, path string) (real string, doc []byte, info os.FileInfo, err error) {
	doc, err = source.Read(ctx, path, config.MaxSize)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil, nil, fmt.Errorf("%w: `meshd init > FILE` writes a file to start with", err)
	case err != nil:
		return "", nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	if real, err = filepath.EvalSymlinks(path); err != nil {
		return "", nil, nil, err
	}
	info, err = os.Stat(real)
	return real, doc, info, err
}

// replace writes a file whole or not at all, with the mode and the owner that it had.
func replace(path string, doc []byte, was os.FileInfo) error {
	file, err := renameio.NewPendingFile(path, renameio.WithStaticPermissions(was.Mode().Perm()))
	if err != nil {
		return err
	}
	defer func() { _ = file.Cleanup() }() // does nothing behind a successful replacement
	now, err := file.Stat()
	if err != nil {
		return err
	}
	old, mine := was.Sys().(*syscall.Stat_t), now.Sys().(*syscall.Stat_t) // of any file on Linux
	if old.Uid != mine.Uid || old.Gid != mine.Gid {
		if err := file.Chown(int(old.Uid), int(old.Gid)); err != nil {
			return fmt.Errorf("keep the owner of %s: %w", path, err)
		}
	}
	if _, err := file.Write(doc); err != nil {
		return err
	}
	return file.CloseAtomicallyReplace()
}

package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/apply"
	"example.org/meshd/internal/control"
)

// historyCommand returns `meshd history`.
func historyCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "history",
		Short: "List the files that were in force, the newest first",
		Long: `List the file in force and the last 20 before it, with numbers that stay. "meshd diff N" shows what
differs, "meshd rollback N" goes back to one. BY is the user as the kernel tells it; what stands in brackets
is what that user's programs said, which meshd cannot verify.`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client := g.client()
			defer client.Close()
			all, err := client.Files(cmd.Context())
			if err != nil {
				return err
			}
			if g.json {
				return printJSON(cmd.OutOrStdout(), all)
			}
			return printFiles(cmd.OutOrStdout(), all)
		},
	}
}

// printFiles writes a line for each file.
func printFiles(w io.Writer, all control.Files) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "FILE\tIN FORCE SINCE\tSHA-256\tHOW\tBY")
	for _, f := range all.Files {
		how := strings.ReplaceAll(f.Cause, "_", " ")
		switch {
		case f.InForce && f.Outcome == "":
			how += ", in force"
		case f.InForce:
			how += ", " + f.Outcome + ", in force"
		case f.Outcome != "":
			how += ", " + strings.ReplaceAll(f.Outcome, "_", " ")
		}
		fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\n", f.Number, f.At.Local().Format(time.DateTime),
			f.SHA256[:min(12, len(f.SHA256))], how, whoDid(f))
	}
	if err := table.Flush(); err != nil || all.Pending == nil {
		return err
	}
	_, err := fmt.Fprintln(w, waits(*all.Pending))
	return err
}

// whoDid names who put a file in force.
func whoDid(f control.File) string {
	var said []string
	if f.Told.User != "" {
		said = append(said, f.Told.User)
	}
	if f.Told.From != "" {
		said = append(said, "ssh from "+f.Told.From)
	}
	switch {
	case len(said) > 0:
		return fmt.Sprintf("%s (%s)", f.By, strings.Join(said, ", "))
	case f.By == "":
		return "-"
	}
	return f.By
}

// diffCommand returns `meshd diff`. Its exit codes are those of diff(1), as of `meshd plan`.
func diffCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "diff N [M]",
		Short: "Show the lines in which earlier files differ",
		Long: `Show the lines in which file N differs from the file in force, or from file M. "meshd history" lists
the numbers. Exit code 0: they are equal, 1: they differ, 2: there is no such file.`,
		Args: arguments(1, 2), ValidArgsFunction: fileNumbers(g, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			client := g.client()
			defer client.Close()
			var names, texts [2]string
			for i := range names {
				number, err := fileNumber(cmd, client, args, i)
				if err != nil {
					return fmt.Errorf("%w: %w", errPlan, err)
				}
				one, err := client.File(cmd.Context(), number)
				if err != nil {
					return fmt.Errorf("%w: %w", errPlan, err)
				}
				names[i], texts[i] = fmt.Sprintf("file %d", number), one.Text
			}
			lines := apply.Diff(texts[0], texts[1])
			if g.json {
				if err := printJSON(cmd.OutOrStdout(), map[string]any{"schema": control.Schema, "from": names[0],
					"to": names[1], "lines": append([]string{}, lines...)}); err != nil {
					return err
				}
			} else if len(lines) > 0 {
				fmt.Fprintf(cmd.OutOrStdout(), "--- %s\n+++ %s\n%s\n", names[0], names[1], strings.Join(lines, "\n"))
			}
			if len(lines) > 0 {
				return errSilent
			}
			return nil
		},
	}
}

// fileNumber returns one of the numbers of a command line; the second is that of the file in force by
// default.
func fileNumber(cmd *cobra.Command, client *control.Client, args []string, i int) (int, error) {
	if i < len(args) {
		return parseNumber(args[i])
	}
	all, err := client.Files(cmd.Context())
	if err != nil {
		return 0, err
	}
	for _, f := range all.Files {
		if f.InForce {
			return f.Number, nil
		}
	}
	return 0, fmt.Errorf("%w: the file in force has no number yet", apply.ErrNoFile)
}

// parseNumber reads the number of a file.
func parseNumber(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%w: %q is no number of a file: `meshd history` lists them", errUsage, s)
	}
	return n, nil
}

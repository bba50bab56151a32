package main

import (
	"context"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// completeWithin is how long a shell waits for names of peers: longer, and it seems to hang.
const completeWithin = 500 * time.Millisecond

// harmless matches words in which a shell finds nothing to expand.
var harmless = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

// peerNames completes one name of a peer after a prefix. It asks the running meshd, since the file
// on disk may be newer than the one in force. others are words that may stand in the name's place.
func peerNames(g *globals, prefix string, others ...string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completeWithin)
		defer cancel()
		client := g.client()
		defer client.Close()
		words := others
		// Without an answer nothing is completed, silently: an error message would land in the line that
		// is being typed.
		if status, err := client.Status(ctx); err == nil {
			for _, p := range status.Peers {
				// Names come from a file that others may write, and some shells expand what a completion
				// returns.
				if harmless.MatchString(p.Name) {
					words = append(words, prefix+p.Name)
				}
			}
		}
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}

// choices completes the value of a flag that has few of them.
func choices(cmd *cobra.Command, flag string, values ...string) {
	fixed := cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)
	if err := cmd.RegisterFlagCompletionFunc(flag, fixed); err != nil {
		panic(err) // the command has no such flag
	}
}

// lists completes the value of a flag that is a list with commas: what it does not have yet.
func lists(cmd *cobra.Command, flag string, values ...string) {
	complete := func(_ *cobra.Command, _ []string, word string) (all []string, _ cobra.ShellCompDirective) {
		head := word[:strings.LastIndexByte(word, ',')+1]
		for _, value := range values {
			if !slices.Contains(strings.Split(head, ","), value) {
				all = append(all, head+value)
			}
		}
		return all, cobra.ShellCompDirectiveNoFileComp
	}
	if err := cmd.RegisterFlagCompletionFunc(flag, complete); err != nil {
		panic(err) // the command has no such flag
	}
}

// fileNumbers completes up to most numbers of files that were in force, each with the time when it came into
// force.
func fileNumbers(g *globals, most int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) (all []string, _ cobra.ShellCompDirective) {
		const directive = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
		if len(args) >= most {
			return nil, directive
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completeWithin)
		defer cancel()
		client := g.client()
		defer client.Close()
		files, err := client.Files(ctx)
		if err != nil { // silently, as in peerNames
			return nil, directive
		}
		for _, f := range files.Files {
			if f.InForce && len(args) == 0 { // the first one is compared with it, or replaces it
				continue
			}
			since := f.At.Local().Format(time.DateTime)
			all = append(all, cobra.CompletionWithDesc(strconv.Itoa(f.Number), since))
		}
		return all, directive
	}
}

// tomlFiles completes one file.
func tomlFiles(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return []string{"toml"}, cobra.ShellCompDirectiveFilterFileExt
}

// spans are what is proposed for flags of a duration: how long each is, most of the time.
var spans = map[string][]string{"interval": {"0.2", "1s", "5s"}, "for": {"10m", "1h", "1d"},
	"timeout": {"10s", "1m", "10m"}, "confirm": {"1m", "2m", "10m"}}

// noStrayFiles says of all that has no completion of its own that nothing can be proposed for it: without
// that, shells propose files. Flags whose values are files are known by how their help names the value.
func noStrayFiles(root *cobra.Command) {
	for _, cmd := range root.Commands() {
		if cmd.ValidArgsFunction == nil {
			cmd.ValidArgsFunction = cobra.NoFileCompletions
		}
		cmd.Flags().VisitAll(func(flag *pflag.Flag) {
			value, _ := pflag.UnquoteUsage(flag)
			if _, has := cmd.GetFlagCompletionFunc(flag.Name); has || value == "file" || value == "path" ||
				value == "folder" || flag.Name == "count-or-config" {
				return
			}
			if value != "time" {
				choices(cmd, flag.Name)
				return
			}
			choices(cmd, flag.Name, spans[flag.Name]...)
		})
	}
}

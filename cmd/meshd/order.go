package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// commandFirst returns args with the command in front. Flags may stand before the command, also
// those that only it has (`meshd -f events`), but cobra knows these only after it has found the
// command. The command is the first word that is neither a flag nor the value of a flag.
func commandFirst(root *cobra.Command, args []string) []string {
	for i := 0; i < len(args); i++ {
		switch arg := args[i]; {
		case arg == "--": // only arguments follow, and a command is none
			return args
		case !strings.HasPrefix(arg, "-"):
			return slices.Concat(args[i:i+1], args[:i], args[i+1:])
		// Its value may look like a command: `meshd --socket status peers`.
		case takesNext(root, arg), i+1 < len(args) && mayTakeNext(root, arg, args[i+1]):
			i++
		}
	}
	return args
}

// takesNext tells whether the word after arg is the value of a flag in arg. It need not know the
// command: flags of one name or letter take values in all commands or in none, as TestFlagsAgree
// makes sure.
func takesNext(root *cobra.Command, arg string) bool {
	type flags = *pflag.FlagSet
	if name, long := strings.CutPrefix(arg, "--"); long { // "--name=value" names no flag
		flag := flagOf(root, func(set flags) *pflag.Flag { return set.Lookup(name) })
		return flag != nil && flag.NoOptDefVal == ""
	}
	letters := arg[1:]
	for i := range letters { // as in "-fc FILE"
		flag := flagOf(root, func(set flags) *pflag.Flag { return set.ShorthandLookup(letters[i : i+1]) })
		if flag == nil {
			return false // cobra will complain
		}
		if flag.NoOptDefVal == "" { // what is left of the word is the value, if anything is
			return i == len(letters)-1
		}
	}
	return false
}

// mayTakeNext tells whether the word after arg is the value of a flag that needs none, as in `meshd -w 5
// status`: everything but a command may be.
func mayTakeNext(root *cobra.Command, arg, next string) bool {
	letter := strings.TrimLeft(arg, "-")
	optionally := flagOf(root, func(set *pflag.FlagSet) *pflag.Flag {
		flag := set.Lookup(letter)
		if len(letter) == 1 {
			flag = set.ShorthandLookup(letter)
		}
		if flag == nil || flag.Value.Type() != new(optional).Type() {
			return nil
		}
		return flag
	})
	isCommand := func(cmd *cobra.Command) bool { return cmd.Name() == next || cmd.HasAlias(next) }
	return optionally != nil && !strings.HasPrefix(next, "-") && !slices.ContainsFunc(root.Commands(), isCommand)
}

// flagOf returns a flag that any of the commands has, or nil.
func flagOf(root *cobra.Command, find func(*pflag.FlagSet) *pflag.Flag) *pflag.Flag {
	if flag := find(root.PersistentFlags()); flag != nil {
		return flag
	}
	for _, cmd := range root.Commands() {
		if flag := find(cmd.Flags()); flag != nil {
			return flag
		}
	}
	return nil
}

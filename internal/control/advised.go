package control

// Advised is an error with what the user can do about it. A command prints both as one
// line; a screen that has a place of its own for advice takes them apart with errors.As.
type Advised struct {
	Err    error  // what went wrong; errors.Is looks into it
	Remedy string // what to do, for people: a command or a place to look at
}

// Error implements error: what went wrong, and what to do.
func (a *Advised) Error() string { return a.Err.Error() + ": " + a.Remedy }

// Unwrap returns what went wrong without the advice.
func (a *Advised) Unwrap() error { return a.Err }

package probe

import "time"

// pending says when a path is to be settled.
type pending struct {
	to    *path
	over  time.Time
	doubt bool // needless once the question is answered
}

// agenda holds what is pending, the earliest first. To add one and to take one out takes a time that grows
// with the logarithm of their number: thousands of questions wait for answers at any time. It is a binary
// heap, as of container/heap, which would allocate for each of them.
type agenda []pending

// first returns when the earliest is over; ok is false if there is none.
func (a agenda) first() (at time.Time, ok bool) {
	if len(a) == 0 {
		return at, false
	}
	return a[0].over, true
}

// add adds one.
func (a *agenda) add(one pending) {
	*a = append(*a, one)
	all := *a
	for i := len(all) - 1; i > 0; {
		above := (i - 1) / 2
		if !all[i].over.Before(all[above].over) {
			break
		}
		all[i], all[above] = all[above], all[i]
		i = above
	}
}

// next takes out the earliest if it is over at a time; ok is false if none is.
func (a *agenda) next(now time.Time) (one pending, ok bool) {
	all := *a
	if len(all) == 0 || all[0].over.After(now) {
		return one, false
	}
	one, last := all[0], len(all)-1
	all[0], all[last] = all[last], pending{} // which holds no path any more
	all = all[:last]
	*a = all
	for i := 0; ; {
		least := i
		for below := 2*i + 1; below <= 2*i+2 && below < last; below++ {
			if all[below].over.Before(all[least].over) {
				least = below
			}
		}
		if least == i {
			return one, true
		}
		all[i], all[least] = all[least], all[i]
		i = least
	}
}

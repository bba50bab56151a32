package mesh

import (
	"encoding/base64"
	"errors"
	"fmt"
)

// A Key is the public key of a node (Curve25519, RFC 7748 section 6.1): it identifies the node, whatever its
// address is. The zero value is none. Private keys have a type of their own, in package wireguard.
type Key [32]byte

// keyText is the length of a key as text: base64 of 32 bytes.
const keyText = 44

// Why a text is no key.
var (
	ErrKeyLength = errors.New("a key is 44 characters that end in =")
	ErrKeyText   = errors.New("a key is base64 of 32 bytes")
	ErrKeyZero   = errors.New("a key of zeros belongs to no node")
)

// ParseKey reads a key as `wg pubkey` and `meshd key` print it. The error is one of ErrKeyLength, ErrKeyText
// and ErrKeyZero.
func ParseKey(s string) (k Key, err error) {
	if len(s) != keyText {
		return k, fmt.Errorf("%w, and this has %d", ErrKeyLength, len(s))
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != len(k) {
		return k, ErrKeyText
	}
	if copy(k[:], b); !k.IsValid() {
		return k, ErrKeyZero
	}
	return k, nil
}

// IsValid tells whether it is the key of a node: not all zeros.
func (k Key) IsValid() bool { return k != Key{} }

// Same tells whether two keys are one for X25519, which ignores the highest bit (RFC 7748 section 5).
func (k Key) Same(o Key) bool { return k.Canonical() == o.Canonical() }

// Canonical returns the one of all keys that are the same which can stand for them in a map.
func (k Key) Canonical() Key {
	k[31] &= 0x7f
	return k
}

// String returns the key in base64, as files have it; empty for none.
func (k Key) String() string {
	if !k.IsValid() {
		return ""
	}
	return base64.StdEncoding.EncodeToString(k[:])
}

package genl

import (
	"errors"
	"io/fs"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The kernel's own family is there in each kernel, and one that nobody has is told as such.
func TestFamily(t *testing.T) {
	if number, err := Family(nl.GENL_CTRL_NAME); number != nl.GENL_ID_CTRL || err != nil {
		t.Errorf("%d, %v", number, err)
	}
	if number, err := Family("meshd-has-none"); !errors.Is(err, fs.ErrNotExist) || number != 0 {
		t.Errorf("%d, %v", number, err)
	}
}

// A list has an answer for each of its elements.
func TestAsk(t *testing.T) {
	all, err := Ask(nl.GENL_ID_CTRL, unix.NLM_F_DUMP, nl.GENL_CTRL_CMD_GETFAMILY, nl.GENL_CTRL_VERSION)
	if err != nil || len(all) < 2 {
		t.Fatalf("%d answers, %v", len(all), err)
	}
	for _, attributes := range all {
		if len(attributes) < 2 { // at least a number and a name
			t.Errorf("%v", attributes)
		}
	}
	if _, err := Ask(nl.GENL_ID_CTRL, unix.NLM_F_ACK, 255, nl.GENL_CTRL_VERSION); err == nil {
		t.Error("the kernel knows command 255")
	}
}

package wireguard

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"example.org/meshd/internal/budget"
	"example.org/meshd/internal/foreign"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
)

// Users of the tests: nobody stands for that of the service.
const (
	service = 65534
	third   = 65533
)

// Alice's key pair of RFC 7748 section 6.1.
const (
	alicePrivate = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo="
	alicePublic  = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
)

// asService has the user nobody stand for that of the service, until the test ends.
func asService(t *testing.T) {
	was := serviceUser
	serviceUser = "nobody"
	t.Cleanup(func() { serviceUser = was })
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// keyFile writes a file of a user's with a mode, and returns its path.
func keyFile(t *testing.T, user int, mode fs.FileMode, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "private.key")
	must(t, os.WriteFile(path, []byte(text), 0o600), os.Chown(path, user, user), os.Chmod(path, mode))
	return path
}

// Whatever is at the path, the answer is the key or a reason.
func TestReadKey(t *testing.T) {
	nstest.Require(t)
	asService(t)
	const text = alicePrivate + "\n"
	link := func(user int, make func(t *testing.T) string) func(t *testing.T) string {
		return func(t *testing.T) string {
			path := filepath.Join(t.TempDir(), "link")
			must(t, os.Symlink(make(t), path), os.Lchown(path, user, user))
			return path
		}
	}
	of := func(user int, mode fs.FileMode, text string) func(t *testing.T) string {
		return func(t *testing.T) string { return keyFile(t, user, mode, text) }
	}
	inFolder := func(user int, mode fs.FileMode) func(t *testing.T) string {
		return func(t *testing.T) string {
			path := keyFile(t, 0, 0o400, text)
			must(t, os.Chown(filepath.Dir(path), user, user), os.Chmod(filepath.Dir(path), mode))
			return path
		}
	}
	for _, test := range []struct {
		name string
		at   func(t *testing.T) string
		want error // nil: Alice's key
	}{
		{"of root", of(0, 0o400, text), nil},
		{"of root, which may write", of(0, 0o600, text), nil},
		{"of the service", of(service, 0o400, text), nil},
		{"without a line feed", of(0, 0o400, alicePrivate), nil},
		{"with blanks", of(0, 0o400, " "+alicePrivate+" \r\n\n"), nil},
		{"link of root's to a file", link(0, of(0, 0o400, text)), nil},
		{"link of the service's to a file", link(service, of(service, 0o400, text)), nil},
		{"link to a link", link(0, link(0, of(0, 0o400, text))), nil},

		{"nothing", func(t *testing.T) string { return filepath.Join(t.TempDir(), "none") }, ErrNoKey},
		{"no folder", func(t *testing.T) string { return filepath.Join(t.TempDir(), "none", "key") }, ErrNoKey},
		{"link to nothing", link(0, func(*testing.T) string { return "/nowhere/at/all" }), ErrNoKey},
		{"group may read", of(0, 0o440, text), ErrOpenKey},
		{"others may read", of(0, 0o404, text), ErrOpenKey},
		{"group may write", of(0, 0o420, text), ErrOpenKey},
		{"others may execute", of(0, 0o401, text), ErrOpenKey},
		{"of another user", of(third, 0o400, text), ErrForeignKey},
		{"in the folder of another user", inFolder(third, 0o755), ErrForeignKey},
		{"link of another user's", link(third, of(0, 0o400, text)), ErrForeignKey},
		{"link to a file of another user's", link(0, of(third, 0o400, text)), ErrForeignKey},
		{"folder", func(t *testing.T) string { return t.TempDir() }, ErrBadKey},
		{"FIFO", func(t *testing.T) string {
			path := filepath.Join(t.TempDir(), "fifo")
			must(t, unix.Mkfifo(path, 0o400))
			return path
		}, ErrBadKey},
		{"device", func(*testing.T) string { return "/dev/zero" }, ErrBadKey},
		{"huge file", func(t *testing.T) string {
			path := keyFile(t, 0, 0o400, text)
			must(t, os.Truncate(path, 1<<40))
			return path
		}, ErrBadKey},
		{"empty file", of(0, 0o400, ""), ErrBadKey},
		{"not base64", of(0, 0o400, strings.Repeat("!", 44)), ErrBadKey},
		{"key of 31 bytes", of(0, 0o400, alicePrivate[:40]+"LA=="), ErrBadKey},
		{"bits behind the key", of(0, 0o400, alicePrivate[:42]+"p="), ErrBadKey},
		{"zeros", of(0, 0o400, strings.Repeat("A", 43)+"="), ErrBadKey},
		{"two keys", of(0, 0o400, text+text), ErrBadKey},
		{"file of wg-quick", of(0, 0o400, "[Interface]\nPrivateKey = "+text), ErrBadKey},
		{"circle of links", func(t *testing.T) string {
			path := filepath.Join(t.TempDir(), "link")
			must(t, os.Symlink(path, path))
			return path
		}, unix.ELOOP},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := test.at(t)
			key, err := ReadKey(t.Context(), path)
			if !errors.Is(err, test.want) || key.IsValid() != (err == nil) {
				t.Fatalf("%v, want %v", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), alicePrivate[:20]) {
				t.Errorf("%v has the key in it", err)
			}
			if err == nil && key.Public().String() != alicePublic {
				t.Errorf("%s, want %s", key.Public(), alicePublic)
			}
		})
	}
}

// The credentials of the service come first. Their mode may have bits of an access control list.
func TestReadKeyOfCredentials(t *testing.T) {
	nstest.Require(t)
	other, err := wgtypes.GeneratePrivateKey()
	must(t, err)
	path := keyFile(t, 0, 0o400, other.String())
	folder := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", folder)
	for _, test := range []struct {
		name string
		text string // of the credential; empty: there is none
		want string // the public key
		err  error
	}{
		{"none", "", other.PublicKey().String(), nil},
		{"one", alicePrivate, alicePublic, nil},
		{"a bad one", "x", "", ErrBadKey},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.text != "" {
				at := filepath.Join(folder, "private.key")
				must(t, os.WriteFile(at, []byte(test.text), 0o440), os.Chmod(at, 0o440))
			}
			key, err := ReadKey(t.Context(), path)
			if !errors.Is(err, test.err) || err == nil && key.Public().String() != test.want {
				t.Errorf("%v, %v", key.Public(), err)
			}
		})
	}
}

// A file system that does not answer delays whoever asks for the patience, and no longer.
func TestReadKeyHangs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none")
	for range mostHanging {
		hanging <- struct{}{}
	}
	defer func(was time.Duration) { keyPatience = was }(keyPatience)
	keyPatience = time.Millisecond
	_, err := ReadKey(t.Context(), path)
	if !errors.Is(err, ErrHangs) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want %v", err, ErrHangs)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ReadKey(ended, path); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for range mostHanging {
		<-hanging
	}
	keyPatience = time.Minute
	if _, err := ReadKey(t.Context(), path); !errors.Is(err, ErrNoKey) {
		t.Error(err)
	}
}

// A key that was made belongs to the service, and to no one else, and is read back.
func TestMakeKey(t *testing.T) {
	nstest.Require(t)
	asService(t)
	path := filepath.Join(t.TempDir(), "meshd", "private.key")
	defer unix.Umask(unix.Umask(0o277)) // whatever it is, the modes are right
	made, err := MakeKey(path)
	must(t, err)
	read, err := ReadKey(t.Context(), path)
	if err != nil || read != made || !made.IsValid() {
		t.Errorf("read another key: %v", err)
	}
	for at, want := range map[string]struct {
		mode fs.FileMode
		user uint32
	}{path: {0o400, service}, filepath.Dir(path): {fs.ModeDir | 0o755, 0}} {
		info, err := os.Stat(at)
		must(t, err)
		if uid := info.Sys().(*syscall.Stat_t).Uid; info.Mode() != want.mode || uid != want.user {
			t.Errorf("%s: mode %v of user %d, want %v of %d", at, info.Mode(), uid, want.mode, want.user)
		}
	}
	if _, err := MakeKey(path); !errors.Is(err, ErrKeyExists) {
		t.Errorf("a second key: %v", err)
	}
	if again, err := ReadKey(t.Context(), path); err != nil || again != made {
		t.Errorf("the key has changed: %v", err)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("%v is left, %v", left, err)
	}
}

// Where there is no user of the service, the key is the caller's. Something at the path stays, whatever it
// is.
func TestMakeKeyRefuses(t *testing.T) {
	nstest.Require(t)
	for _, test := range []struct {
		name string
		at   func(folder string) string
		want error // nil: it is made
	}{
		{"nothing there", func(folder string) string { return folder + "/key" }, nil},
		{"empty file", func(folder string) string {
			must(t, os.WriteFile(folder+"/key", nil, 0o600))
			return folder + "/key"
		}, ErrKeyExists},
		{"link to nothing", func(folder string) string {
			must(t, os.Symlink("/nowhere/at/all", folder+"/key"))
			return folder + "/key"
		}, ErrKeyExists},
		{"folder there", func(folder string) string {
			must(t, os.Mkdir(folder+"/key", 0o700))
			return folder + "/key"
		}, ErrKeyExists},
		{"no parent", func(folder string) string { return folder + "/a/b/key" }, fs.ErrNotExist},
		{"file for a folder", func(folder string) string {
			must(t, os.WriteFile(folder+"/a", nil, 0o600))
			return folder + "/a/key"
		}, unix.ENOTDIR},
		{"folder that others can fill", func(folder string) string {
			must(t, os.Mkdir(folder+"/a", 0o700), os.Chmod(folder+"/a", 0o777), os.Mkdir(folder+"/a/b", 0o700))
			return folder + "/a/b/key"
		}, foreign.ErrUntrusted},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := test.at(t.TempDir())
			before, _ := os.Lstat(path)
			key, err := MakeKey(path)
			if !errors.Is(err, test.want) || key.IsValid() != (test.want == nil) {
				t.Errorf("%v, want %v", err, test.want)
			}
			if after, _ := os.Lstat(path); before != nil && !os.SameFile(before, after) {
				t.Error("what was there is gone")
			}
		})
	}
}

// Many that make the key at once end with one key.
func TestMakeKeyAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	results := make(chan error, 8)
	for range cap(results) {
		go func() {
			_, err := MakeKey(path)
			results <- err
		}()
	}
	made := 0
	for range cap(results) {
		switch err := <-results; {
		case err == nil:
			made++
		case !errors.Is(err, ErrKeyExists):
			t.Error(err)
		}
	}
	if made != 1 {
		t.Errorf("%d keys were made", made)
	}
}

// A private key that stands for a public one is recognised, also as another program has written it.
func TestPrivateIs(t *testing.T) {
	alice, err := parsePrivate(alicePrivate)
	must(t, err)
	raw, err := wgtypes.ParseKey(alicePrivate) // Alice's has bits that X25519 does not use
	must(t, err)
	if !alice.Is(mesh.Key(raw)) || !alice.Is(mesh.Key(clamped(raw))) || alice.Is(alice.Public()) ||
		(Private{}).Is(mesh.Key{}) {
		t.Error("wrong")
	}
}

// No verb, and no log, has the key.
func TestPrivateIsNotPrinted(t *testing.T) {
	key, err := parsePrivate(alicePrivate)
	must(t, err)
	var b strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%o"} {
		fmt.Fprintf(&b, verb+verb, key, Settings{Private: key})
	}
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "key", key, "settings", Settings{Private: key})
	slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "key", key, "settings", Settings{Private: key})
	for _, form := range []string{alicePrivate[:20], "70076d0a", "112 7 109 10", "112,7,109", "0x70, 0x7"} {
		if strings.Contains(b.String(), form) {
			t.Errorf("%q is in %s", form, b.String())
		}
	}
}

// Whatever a file has in it, it is one key or none, and no error repeats it.
func FuzzParsePrivate(f *testing.F) {
	for _, seed := range []string{"", alicePrivate, alicePrivate + "\n", "\x00", strings.Repeat("A", 44)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		defer budget.Of(t)()
		key, err := parsePrivate(text)
		switch {
		case err == nil && !key.Public().IsValid():
			t.Errorf("%q has no public key", text)
		case err != nil && (!errors.Is(err, ErrBadKey) || len(text) > 60 && strings.Contains(err.Error(), text)):
			t.Error(err)
		}
		if again, err := parsePrivate(key.key.String()); key.IsValid() && (err != nil || again != key) {
			t.Errorf("%q is read as another key", text)
		}
	})
}

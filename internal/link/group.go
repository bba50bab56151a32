package link

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// WatchQueues calls changed once at the start and then after each change of a queueing
// discipline, or of something else of traffic control, of any interface. Otherwise it is as
// WatchPolicies.
func WatchQueues(ctx context.Context, changed func()) error {
	if err := watchGroup(ctx, unix.NETLINK_ROUTE, unix.RTNLGRP_TC, changed); err != nil {
		return fmt.Errorf("watch queueing disciplines: %w", err)
	}
	return nil
}

// watchGroup calls changed once at the start and then after each message to one of the first 32
// groups of a netlink family. It reads no message, so they may be of any size. Without the family
// it waits for the end of ctx.
func watchGroup(ctx context.Context, family, number int, changed func()) error {
	const raw = unix.SOCK_RAW | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
	fd, err := unix.Socket(unix.AF_NETLINK, raw, family)
	if noXfrm(err) {
		<-ctx.Done()
		return nil
	}
	if err != nil {
		return err
	}
	socket := os.NewFile(uintptr(fd), "netlink")
	defer socket.Close()
	group := &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (uint32(number) - 1)}
	if err := unix.Bind(fd, group); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { socket.Close() }) // ends Read
	defer stop()
	changed()
	for buf := make([]byte, 1<<14); ; {
		_, err := socket.Read(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil, errors.Is(err, unix.ENOBUFS):
			changed()
		default:
			return err
		}
	}
}

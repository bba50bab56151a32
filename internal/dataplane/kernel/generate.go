package kernel

// The object is committed, since clang is needed to make it; a test compares it with what
// clang makes of the source now.
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-14 -target bpfel -type settings -type mark -type node -type prefix4 -type prefix6 -type sender -type device -type counters -type endpoint -type path -type carrier -type flow -type flow_count mesh bpf/mesh.c -- -O2 -g -Wall -Wextra -Werror -I/usr/include/x86_64-linux-gnu
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-14 -target bpfel tap bpf/tap.c -- -O2 -g -Wall -Wextra -Werror -I/usr/include/x86_64-linux-gnu

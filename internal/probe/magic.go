package probe

// Magic is how each payload of meshd's begins. Rules of the firewall tell forwarded probes by it.
const Magic = magic

package mesh

// What the kernel engine has room for: its maps are made for so much. The user engine has no limits.
const (
	MaxNodes    = 16384  // this node included
	MaxPrefixes = 131072 // of one family, subnets and routes of all nodes
)

module example.org/meshd

go 1.26.0

require (
	github.com/BurntSushi/toml v1.6.0 // indirect
	github.com/gaissmai/bart v0.30.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

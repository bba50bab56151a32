package plan

import (
	"example.org/meshd/internal/config"
	"example.org/meshd/internal/mesh"
)

// Metrics returns what the file says of the routes of all nodes: which of several nodes is preferred for a
// prefix. Engines know the metrics of shared prefixes alone, in mesh.Share.
func (p *Plan) Metrics() (of func(node string, prefix mesh.Prefix) int) {
	type route struct {
		node   string
		prefix mesh.Prefix
	}
	named := map[route]int{} // mostly none
	for _, n := range p.Config.Nodes {
		for _, r := range n.Routes {
			if r.Metric != config.DefaultMetric {
				named[route{n.Name, r.Prefix}] = r.Metric
			}
		}
	}
	return func(node string, prefix mesh.Prefix) int {
		if metric, ok := named[route{node, prefix}]; ok {
			return metric
		}
		return config.DefaultMetric
	}
}

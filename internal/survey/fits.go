package survey

import (
	"errors"
	"net/netip"

	"example.org/meshd/internal/link"
	"example.org/meshd/internal/plan"
)

// Fits returns an error if the host's own routes are in the way of a plan: the mesh would look well
// and not be.
func Fits(p *plan.Plan) error {
	var underlay []netip.Addr
	for peer := range p.Engine.Mesh.Others() {
		for _, a := range peer.Addresses {
			underlay = append(underlay, a.Addr())
		}
	}
	return errors.Join(link.CheckRoutes(p.Link.Interface, p.Link.Prefixes(), p.Link.Beside...),
		link.CheckUnderlay(p.Config.Network.CIDR, underlay))
}

// FitsOthers is Fits without routes over a TUN of meshd's with another name: the parts take it down at the
// start, or rename it back later.
func FitsOthers(p *plan.Plan) error {
	if err := Fits(p); !errors.Is(err, link.ErrEarlier) {
		return err
	}
	return nil
}

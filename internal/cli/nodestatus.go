package cli

// nodeVerbs are the actions on the node of this machine.
func nodeVerbs() []verb { return nil }

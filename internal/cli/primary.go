package cli

// primaryVerbs are the actions on a primary.
func primaryVerbs() []verb { return nil }

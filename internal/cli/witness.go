package cli

// witnessVerbs are the actions on a witness.
func witnessVerbs() []verb { return nil }

package cli

// standbyVerbs are the actions on a standby.
func standbyVerbs() []verb { return nil }

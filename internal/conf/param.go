package conf

// Kind is how a parameter's value is written and what its field's type is.
type Kind uint8

// The kinds of values.
const (
	Text     Kind = iota // string, taken as it is
	Path                 // string, cleaned of doubled and trailing slashes
	Conninfo             // string, a connection string of libpq
	Command              // string, run by the shell
	Choice               // string, one of Param.Choices
	Integer              // int or cluster.NodeID
	Boolean              // bool
	Duration             // time.Duration; -1 is Unset where Param.Off
	Delay                // time.Duration; the empty string is Unset
	List                 // []string, separated by commas, repeated lines add up
	Mappings             // []Mapping, one old=new a line, repeated lines add up
)

// Reader says which program uses a parameter.
type Reader uint8

// The readers.
const (
	ByCommand Reader = 1 << iota // the repmgr command
	ByDaemon                     // repmgrd
	ByBoth    = ByCommand | ByDaemon
)

// Reload says what a changed value needs to take effect in a running daemon.
type Reload uint8

// The classes of parameters.
const (
	NextCommand Reload = iota // nothing: only the repmgr command reads it, each time it runs
	AtReload                  // a reload
	AtRestart                 // a restart of repmgrd
	AtRegister                // "repmgr ... register --force", since its value is kept in repmgr.nodes
	Never                     // nothing will do: a reload that finds it changed is refused as a whole
)

// Placeholder is what a % and a letter stand for in a command.
type Placeholder struct {
	Letter byte
	Means  string
}

// Param is everything that is known of one parameter of repmgr.conf.
type Param struct {
	Name    string
	Group   string // heading under which the sample and the reference list it
	Kind    Kind
	Unit    string // of a Duration's bare numbers: ms or s
	Default string // as written in the file
	Min     string // smallest value of an Integer or Duration, as written in the file
	Max     string // largest value of an Integer or Duration, longest text in bytes
	Off     bool   // a Duration may be -1, which is Unset
	Choices []string

	Required     bool
	New          bool   // repmgr 5 does not know it
	Undocumented bool   // repmgr 5 knows it but does not document it
	Repmgr5      string // repmgr 5's default, where Why says why ours differs
	Why          string

	// Unread says, so that it reads on after the name, why the value changes
	// nothing: "has no effect yet: ..." or "has no effect: ...". Empty: it does.
	Unread string

	Reader       Reader
	Reload       Reload
	Placeholders []Placeholder
	Brief        string // one line for --help
	About        string // what else there is to say, for the reference
	Example      string // for the sample, where the default would not say enough

	at func(*Config) any // pointer to its field
}

// Lookup returns the parameter of that name, which is case-sensitive as in repmgr 5.
func Lookup(name string) (*Param, bool) {
	for i := range Params {
		if Params[i].Name == name {
			return &Params[i], true
		}
	}
	return nil, false
}

package registry

import "testing"

// What leaves the database has no secret, and is as it was written where there is none.
func TestWithoutSecrets(t *testing.T) {
	for conninfo, want := range map[string]string{
		"host=n1  user=repmgr": "host=n1  user=repmgr",
		"host=n1 password=geheim sslpassword=geheim scram_client_key=geheim scram_server_key=geheim oauth_client_secret=geheim port=1": "host=n1 port=1",
		"postgresql://repmgr:geheim@n1/repmgr?sslpassword=geheim":                                                                      "user=repmgr host=n1 dbname=repmgr",
		"password=geheim host='": "",
	} {
		if got := WithoutSecrets(conninfo); got != want {
			t.Errorf("%s: got %s, want %s", conninfo, got, want)
		}
	}
}

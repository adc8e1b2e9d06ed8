package ledger

import (
	"cmp"

	"github.com/jackc/pgx/v5"
)

// PostgresConfig returns how to connect to a ledger in PostgreSQL with its schema
// as the search path, for what lies beside the ledger in it. Its error repeats
// no password.
func PostgresConfig(url string) (*pgx.ConnConfig, error) {
	config, _, err := postgresConfig(url)
	if err != nil {
		return nil, (&postgresDB{name: "the ledger's database"}).explain(err)
	}
	return config, nil
}

// postgresConfig also returns the schema's plain name.
func postgresConfig(url string) (*pgx.ConnConfig, string, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, "", err
	}
	schema := cmp.Or(config.RuntimeParams["search_path"], "keymill")
	config.RuntimeParams["search_path"] = pgx.Identifier{schema}.Sanitize()
	config.RuntimeParams["application_name"] = "keymill"
	config.RuntimeParams["synchronous_commit"] = "on" // whatever the server's default is
	return config, schema, nil
}

package main

import (
	"context"
	"database/sql"
)

// certificate returns what is kept under a name for AUTOCERT_DOMAIN. errNotFound: nothing.
func (s *store) certificate(ctx context.Context, name string) (value []byte, err error) {
	err = s.row(ctx, func(row scanner) error { return row.Scan(&value) }, `SELECT value FROM certificates WHERE name = $1`, name)
	return value, err
}

// putCertificate keeps a value under a name, in the place of what was there.
func (s *store) putCertificate(ctx context.Context, name string, value []byte) error {
	return s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO certificates (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value`,
			name, s.value(kindBytes, string(value)))
		return err
	})
}

// deleteCertificate removes what is kept under a name, if there is anything.
func (s *store) deleteCertificate(ctx context.Context, name string) error {
	return s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM certificates WHERE name = $1`, name)
		return err
	})
}

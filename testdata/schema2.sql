-- The schema, version after version: an older database gets the statements behind its own, so what stands here never
-- changes. Words in braces are what the two databases write differently: see db_sqlite.go and db_postgres.go. A
-- semicolon at the end of a line ends a statement.
-- roles and users begin with the columns of the original project, so that its data fits unchanged.

CREATE TABLE schema_version (
    version bigint NOT NULL
);
INSERT INTO schema_version (version) VALUES (1);

CREATE TABLE settings (
    name  varchar(64) PRIMARY KEY,
    value text NOT NULL
);

CREATE TABLE roles (
    id   {identity},
    name varchar(255) UNIQUE NOT NULL
);
INSERT INTO roles (name) VALUES ('USER');
INSERT INTO roles (name) VALUES ('ADMIN');

CREATE TABLE users (
    id         {identity},
    created_at {timestamp} NOT NULL DEFAULT CURRENT_TIMESTAMP,
    username   varchar(255) UNIQUE NOT NULL,
    password   varchar(255) NOT NULL,
    role_id    bigint REFERENCES roles (id) DEFAULT 1,
    -- The name in lower case: names are unique without regard to case.
    name_key   text UNIQUE,
    disabled   boolean NOT NULL DEFAULT false,
    -- Raised above every other user's by each change that must end the user's tokens and streams.
    version    bigint NOT NULL DEFAULT 0
);
CREATE INDEX users_version ON users (version);

CREATE TABLE rooms (
    id         {identity},
    created_at {timestamp} NOT NULL DEFAULT CURRENT_TIMESTAMP,
    -- NULL once the room is deleted: the row stays until its messages are gone, in small steps.
    short_code varchar(64) UNIQUE,
    name       varchar(255) NOT NULL,
    password   varchar(255) NOT NULL,
    owner_id   bigint NOT NULL REFERENCES users (id)
);

CREATE TABLE members (
    room_id bigint NOT NULL REFERENCES rooms (id),
    user_id bigint NOT NULL REFERENCES users (id),
    PRIMARY KEY (room_id, user_id)
);
CREATE INDEX members_user ON members (user_id);

CREATE TABLE messages (
    room_id           bigint NOT NULL REFERENCES rooms (id),
    seq               bigint NOT NULL,
    user_id           bigint NOT NULL,
    -- Microseconds since 1970.
    sent_at           bigint NOT NULL,
    -- UTF-8, and any character: a text of PostgreSQL would not take U+0000.
    client_message_id {bytes},
    body              {bytes} NOT NULL,
    PRIMARY KEY (room_id, seq)
) {clustered};
CREATE UNIQUE INDEX messages_client_message_id
    ON messages (room_id, user_id, client_message_id) WHERE client_message_id IS NOT NULL;

-- Version 2

-- A deleted account keeps its row, for the messages that it has written, but not its name or its password.
ALTER TABLE users ADD COLUMN deleted boolean NOT NULL DEFAULT false;

-- The highest seq that MESSAGE_RETENTION has removed: a room's seqs go on behind it.
ALTER TABLE rooms ADD COLUMN purged_seq bigint NOT NULL DEFAULT 0;

CREATE TABLE bans (
    room_id    bigint NOT NULL REFERENCES rooms (id),
    user_id    bigint NOT NULL REFERENCES users (id),
    created_at {timestamp} NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (room_id, user_id)
);
CREATE INDEX bans_user ON bans (user_id);
CREATE INDEX rooms_owner ON rooms (owner_id);

-- Names as they were then: what they name may be gone.
CREATE TABLE audit_log (
    id         {identity},
    created_at {timestamp} NOT NULL DEFAULT CURRENT_TIMESTAMP,
    actor      varchar(255) NOT NULL, -- empty: a command on the server's machine
    action     varchar(64) NOT NULL,
    target     varchar(255) NOT NULL, -- a user name, or a room's short code
    detail     text NOT NULL
);

-- Of AUTOCERT_DOMAIN, with their keys.
CREATE TABLE certificates (
    name  varchar(255) PRIMARY KEY,
    value {bytes} NOT NULL
);

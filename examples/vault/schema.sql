-- What PostgreSQL needs once, as a superuser: an owner that stays, and Vault's own login.
--   psql -v admin_password="$(openssl rand -base64 24)" -f schema.sql mydb
-- Vault changes that password afterwards (database.sh: rotate-root), so that no person knows it.

-- Objects belong to this role. The roles that Vault makes are members of it.
CREATE ROLE my_app NOLOGIN;

-- CREATEROLE is enough, a superuser is not needed. The ADMIN option is for handing my_app on, the
-- membership for giving it, at a revocation, what a user left behind.
CREATE ROLE vault_admin LOGIN CREATEROLE PASSWORD :'admin_password';
GRANT my_app TO vault_admin WITH ADMIN OPTION;

CREATE SCHEMA my_app AUTHORIZATION my_app;
-- For the database, not for the role: sessions log in as other roles, and act as this one.
ALTER DATABASE :"DBNAME" SET search_path = my_app, public;

SET ROLE my_app;
CREATE TABLE my_app.jobs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    payload text NOT NULL,
    done_by text
);
RESET ROLE;

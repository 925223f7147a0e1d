ALTER ROLE "{{name}}" NOLOGIN;
GRANT "{{name}}" TO CURRENT_USER;
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = '{{name}}';
REASSIGN OWNED BY "{{name}}" TO my_app;
DROP OWNED BY "{{name}}";
DROP ROLE "{{name}}";

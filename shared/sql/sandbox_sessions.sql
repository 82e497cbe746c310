-- Sessions that come from the address which this one comes from: those of sandboxes, and those of our own login in every
-- database of the server.
--
-- Answers   pid, started, address, port, server_port, own (true: of our login)
SELECT pid, started, address, port, inet_server_port() AS server_port, false AS own FROM sandbox_sessions()
UNION ALL
SELECT pid, backend_start, host(client_addr), client_port, inet_server_port(), true
FROM pg_stat_activity WHERE usename = session_user AND client_addr = inet_client_addr()

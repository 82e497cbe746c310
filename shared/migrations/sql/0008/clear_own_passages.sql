-- Removes the passages of a document of the sandbox's user. A function, because who may delete from a table may lock it,
-- for everybody and in every mode. See `run_user` for why it states a user.
CREATE FUNCTION clear_own_passages(p_document text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = lanewise, pg_temp AS $$
DECLARE
    claimed text := run_user();
BEGIN
    PERFORM set_config('lanewise.user', coalesce(claimed, ''), true);
    DELETE FROM document_passages WHERE user_id = claimed AND document = p_document;
    PERFORM set_config('lanewise.user', '', true);
END $$;

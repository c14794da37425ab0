-- Whether the user owns the publisher or is a member of the organisation that does.
CREATE OR REPLACE FUNCTION store_is_own(p_publisher text, p_user text) RETURNS boolean
LANGUAGE sql STABLE
RETURN EXISTS (
    SELECT FROM publisher p
    WHERE p.id = p_publisher AND (
        p.user_id = p_user
        OR EXISTS (SELECT FROM org_member m WHERE m.org_id = p.org_id AND m.user_id = p_user)
    )
);

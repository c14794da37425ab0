"""Large files of projects in chunks, sent in parts.

Revision: 0127
Revises: 0129
"""

from migrations.replacing import run_script

revision = "0127"
down_revision = "0129"
branch_labels = None
depends_on = None

UP = """
ALTER TABLE blob ALTER COLUMN pack_id DROP NOT NULL, ADD COLUMN chunks text[];
ALTER TABLE blob DROP CONSTRAINT blob_codec_known;
ALTER TABLE blob ADD CONSTRAINT blob_codec_known
    CHECK (codec = ANY (ARRAY['raw', 'zstd', 'chunks']));
ALTER TABLE blob ADD CONSTRAINT blob_pack_or_chunks
    CHECK ((codec = 'chunks') = (chunks IS NOT NULL) AND (codec = 'chunks') = (pack_id IS NULL));
CREATE INDEX idx_blob_chunks ON blob (account_id, sha256) WHERE codec = 'chunks';
CREATE TABLE part_upload (
    account_id text NOT NULL,
    sha256 text NOT NULL,
    size bigint NOT NULL,
    received bigint NOT NULL,
    chunks text[] NOT NULL,
    tail bytea NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT part_upload_pk PRIMARY KEY (account_id, sha256),
    CONSTRAINT part_upload_sha256_hex CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    CONSTRAINT part_upload_received_part CHECK (received > 0 AND received <= size)
);
"""

DOWN = """
DROP TABLE part_upload;
DELETE FROM blob WHERE codec = 'chunks';
DROP INDEX idx_blob_chunks;
ALTER TABLE blob DROP CONSTRAINT blob_pack_or_chunks;
ALTER TABLE blob DROP CONSTRAINT blob_codec_known;
ALTER TABLE blob ADD CONSTRAINT blob_codec_known CHECK (codec = ANY (ARRAY['raw', 'zstd']));
ALTER TABLE blob DROP COLUMN chunks, ALTER COLUMN pack_id SET NOT NULL;
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)

-- What a sign-in page calls a provider; empty for its name.
ALTER TABLE identity_providers ADD COLUMN label text NOT NULL DEFAULT '' CHECK (length(label) <= 200);

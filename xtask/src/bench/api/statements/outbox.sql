-- store::outbox::publish
INSERT INTO outbox (topic, subject, created_at) VALUES ('desired', bench.id(2, :t, 0), now());

auto_auth {
  method "approle" {
    mount_path = "auth/approle"
    config = {
      role_id_file_path                   = "/approle/role-id"
      secret_id_file_path                 = "/approle/secret-id"
      remove_secret_id_file_after_reading = false
    }
  }
}

template {
  destination          = "/vault/secrets/db-creds.txt"
  perms                = "0400"
  error_on_missing_key = true
  contents             = <<-EOT
    {{- with secret "database/creds/my-app-role" -}}
    DB_USERNAME={{ .Data.username }}
    DB_PASSWORD={{ .Data.password }}
    {{- end -}}
  EOT
}
